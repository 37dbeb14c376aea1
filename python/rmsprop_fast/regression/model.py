"""What a fit came to: a linear model that predicts, and that can be saved."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmsprop_fast.errors import InputError

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike, NDArray

# What a saved model says of itself.
FORMAT = "rmsprop_fast.LinearModel"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A linear model, as `rmsprop_fast.fit` returns it: ``target = intercept + features @ coefficients``.

    Attributes
    ----------
    feature_names : tuple of str
        Names of the k features.
    target_name : str
        Name of what is predicted.
    intercept, coefficients : float and array of shape (k,)
        In the units of the data.
    intercept_standard_error, standard_errors : float and array of shape (k,)
        Standard errors of both, for independent residuals of equal variance; NaN when there are no more rows than
        coefficients.
    least_squares_intercept, least_squares_coefficients : float and array of shape (k,)
        The closed-form solution of the same problem, to compare with.
    r2 : float
        Coefficient of determination, on the data of the fit.
    residual_std : float
        Root of the residual sum of squares over its n - k - 1 degrees of freedom, in units of the target; NaN when
        there are none.
    condition_number : float
        Of the standardised features: how much rounding errors are amplified.
    rows : int
        Rows of the data.
    epochs : int
        Passes over the data.
    seconds : float
        How long they took.
    converged : bool
        Whether the gradient has vanished to rounding.
    warnings : tuple of str
        What to know before the coefficients are used, a line each; empty as a rule.
    losses : array of shape (epochs + 1,)
        Mean squared residual at the start and after each epoch, as a share of the variance of the target.
    """

    feature_names: tuple[str, ...]
    target_name: str
    intercept: float
    coefficients: NDArray[np.float64]
    intercept_standard_error: float
    standard_errors: NDArray[np.float64]
    least_squares_intercept: float
    least_squares_coefficients: NDArray[np.float64]
    r2: float
    residual_std: float
    condition_number: float
    rows: int
    epochs: int
    seconds: float
    converged: bool
    warnings: tuple[str, ...]
    losses: NDArray[np.float64]

    def predict(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return what the model says of new features.

        Parameters
        ----------
        features : array_like of shape (n, k), or (n,) with a single feature
            In the order of `feature_names`; of a data frame the columns of these names are taken.

        Returns
        -------
        array of shape (n,), float64

        Raises
        ------
        InputError
            When a column is missing, or a value is no finite number.
        """
        columns, _ = feature_columns(features, self.feature_names)
        return self.intercept + columns @ self.coefficients

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON: coefficients by name, None for NaN, without the losses."""

        def by_name(values: NDArray[np.float64]) -> dict[str, float | None]:
            return dict(zip(self.feature_names, map(_none_for_nan, values.tolist()), strict=True))

        return {
            "target": self.target_name,
            "intercept": self.intercept,
            "coefficients": by_name(self.coefficients),
            "standard_errors": {
                "intercept": _none_for_nan(self.intercept_standard_error),
                "coefficients": by_name(self.standard_errors),
            },
            "least_squares": {
                "intercept": self.least_squares_intercept,
                "coefficients": by_name(self.least_squares_coefficients),
            },
            "r2": self.r2,
            "residual_std": _none_for_nan(self.residual_std),
            "condition_number": self.condition_number,
            "rows": self.rows,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "converged": self.converged,
            "warnings": list(self.warnings),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a JSON file, which `load` reads; floats keep every bit."""
        described = {"format": FORMAT, "version": FORMAT_VERSION, **self.as_dict(), "losses": self.losses.tolist()}
        Path(path).write_text(json.dumps(described, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LinearModel:
        """Read a model that `save` wrote.

        Raises
        ------
        InputError
            When the file cannot be read, or holds no such model.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        except ValueError as error:  # of JSON and of UTF-8
            raise InputError(f"{path}: expected a saved model, got no JSON: {error}") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(f"{path}: expected a saved model, which has the format {FORMAT!r}, got other JSON")
        if found.get("version") != FORMAT_VERSION:
            raise InputError(f"{path}: expected a model of version {FORMAT_VERSION}, got {found.get('version')!r}")
        try:
            return cls._from_dict(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: expected a saved model, got one that is damaged: {error!r}") from None

    @classmethod
    def _from_dict(cls, found: dict[str, Any]) -> LinearModel:
        names = tuple(found["coefficients"])

        def values(of: dict[str, float | None]) -> NDArray[np.float64]:
            return np.array([_nan_for_none(of[name]) for name in names])

        errors, exact = found["standard_errors"], found["least_squares"]
        model = cls(
            feature_names=names,
            target_name=str(found["target"]),
            intercept=float(found["intercept"]),
            coefficients=values(found["coefficients"]),
            intercept_standard_error=_nan_for_none(errors["intercept"]),
            standard_errors=values(errors["coefficients"]),
            least_squares_intercept=float(exact["intercept"]),
            least_squares_coefficients=values(exact["coefficients"]),
            r2=float(found["r2"]),
            residual_std=_nan_for_none(found["residual_std"]),
            condition_number=float(found["condition_number"]),
            rows=int(found["rows"]),
            epochs=int(found["epochs"]),
            seconds=float(found["seconds"]),
            converged=bool(found["converged"]),
            warnings=tuple(map(str, found["warnings"])),
            losses=np.array(found["losses"], dtype=np.float64),
        )
        if not np.isfinite([model.intercept, *model.coefficients]).all():
            raise ValueError("coefficients that are not finite")
        return model


def feature_columns(
    features: ArrayLike, names: tuple[str, ...] | None = None
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return features as an array of shape (n, k), and the names of its columns.

    Names are those that are given, or those of a data frame, or x1, x2, ... (x, if there is a single feature).
    """
    given = getattr(features, "columns", None)  # of a data frame
    if given is not None:
        labels = {str(label): label for label in given}  # which may be numbers, say
        if names is not None:
            for name in names:
                if name not in labels:
                    raise InputError(f"features: expected a column {name!r}, got {', '.join(labels)}")
            features = features[[labels[name] for name in names]]  # type: ignore[call-overload, index]
        else:
            names = tuple(str(label) for label in given)
    if names is not None and len(set(names)) < len(names):
        raise InputError(f"features: expected columns of different names, got {', '.join(names)}")
    columns = numbers(features, "features")
    if columns.ndim == 1:
        columns = columns[:, np.newaxis]
    if columns.ndim != 2 or columns.shape[1] == 0:
        raise InputError(f"features: expected shape (n,) or (n, k), got {columns.shape}")
    if names is None:
        names = ("x",) if columns.shape[1] == 1 else tuple(f"x{index + 1}" for index in range(columns.shape[1]))
    if len(names) != columns.shape[1]:
        raise InputError(f"features: expected {len(names)} columns ({', '.join(names)}), got {columns.shape[1]}")
    return columns, names


def numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return finite numbers as an array of float64, without a copy if they are one."""
    if np.ma.isMaskedArray(values):
        raise InputError(f"{name}: expected an array, got a masked one")
    if hasattr(values, "toarray"):
        raise InputError(f"{name}: expected a dense array, got a sparse one")
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name}: expected an array, got what NumPy makes none of: {error}") from None
    if array.dtype.kind not in "biufO":
        raise InputError(f"{name}: expected real numbers, got {array.dtype}")
    if array.ndim == 0:
        raise InputError(f"{name}: expected an array, got {values!r}")
    try:
        array = array.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name}: expected real numbers, got something else: {error}") from None
    with np.errstate(all="ignore"):
        is_finite = math.isfinite(array.sum())  # needs no memory, but may overflow
    if not is_finite and not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InputError(f"{name}{where}: expected a finite number, got {array[tuple(where)]}")
    return array


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _nan_for_none(value: float | None) -> float:
    return math.nan if value is None else float(value)
