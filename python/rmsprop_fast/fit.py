"""The main job: fit a line, or a plane of any dimension, to columns of a CSV file by RMSprop."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rmsprop_fast._core import init, step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# The learning rate falls exponentially to this share of its start: RMSprop's last steps are about as long as the
# learning rate, so it bounds how near the minimum the fit ends.
FINAL_LEARNING_RATE = 1e-8

# Largest component of the loss's gradient, in standardised units (both columns and target of unit variance): below the
# first the fit counts as converged, below the second nothing more is to be gained and it stops early.
CONVERGED = 1e-9
FINISHED = 1e-13

# Standard deviation of the start weights, in standardised units.
START_WEIGHTS = 0.01


class InputError(ValueError):
    """The data or the options do not allow a fit; the message is one line for the user."""


@dataclass(frozen=True)
class Data:
    """One target column of n rows, and the k feature columns that shall explain it, shape (n, k), float64."""

    target_name: str
    feature_names: list[str]
    target: NDArray[np.float64]
    features: NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """target = intercept + features @ coefficients, in the data's own units."""

    intercept: float
    coefficients: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"intercept": self.intercept, "coefficients": self.coefficients}


@dataclass(frozen=True)
class Fit:
    """What a fit came to.

    `residual_std` is the root of the residual sum of squares over n - k - 1 degrees of freedom, None when there are
    none. `losses` is the mean squared residual of the standardised data, at the start and after each epoch.
    """

    line: Line
    least_squares: Line
    r2: float
    residual_std: float | None
    epochs: int
    seconds: float
    converged: bool
    losses: list[float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; without the losses."""
        return {
            **self.line.as_dict(),
            "least_squares": self.least_squares.as_dict(),
            "r2": self.r2,
            "residual_std": self.residual_std,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "converged": self.converged,
        }


def read_csv(path: Path, target: str | None = None, features: Sequence[str] | None = None) -> Data:
    """Read a CSV file with a header row.

    Parameters
    ----------
    path : Path
        The file, UTF-8, separated by commas.
    target : str, optional
        Name of the target column; default is the last one.
    features : sequence of str, optional
        Names of the feature columns; default are all but the target.

    Raises
    ------
    InputError
        When the file cannot be read, a column is missing, or a cell in use is no finite number; names row and column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(reader.line_num, row) for reader in [csv.reader(file)] for row in reader if row]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV file in UTF-8, got {error}") from None
    if not rows:
        raise InputError(f"{path}: expected a header row and data, got an empty file")

    names = [name.strip() for name in rows[0][1]]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: expected columns of different names, got {', '.join(names)}")
    if all(_number(name) is not None for name in names):
        raise InputError(f"{path}: expected a header row with column names, got the numbers {', '.join(names)}")
    target = names[-1] if target is None else target
    features = [name for name in names if name != target] if features is None else list(features)
    for name in (target, *features):
        if name not in names:
            raise InputError(f"{path}: expected one of the columns {', '.join(names)}, got {name!r}")
    if target in features:
        raise InputError(f"--features: expected columns other than the target, got {target!r}")
    if len(set(features)) < len(features):
        raise InputError(f"--features: expected each column once, got {', '.join(features)}")
    if not features:
        raise InputError(
            f"{path}: expected a feature column beside the target {target!r}, got none (commas separate columns)"
        )

    columns = [names.index(name) for name in (target, *features)]
    values = np.empty((len(rows) - 1, len(columns)))
    for index, (line, row) in enumerate(rows[1:]):
        where = f"{path}: row {index + 1} (line {line})"
        if len(row) != len(names):
            raise InputError(f"{where}: expected {len(names)} columns, got {len(row)}")
        for position, column in enumerate(columns):
            number = _number(row[column])
            if number is None:
                raise InputError(f"{where}, column {names[column]!r}: expected a finite number, got {row[column]!r}")
            values[index, position] = number
    return Data(target, features, values[:, 0].copy(), values[:, 1:].copy())


def fit(
    data: Data,
    *,
    lr: float = 0.01,
    rho: float = 0.99,
    eps: float = 1e-8,
    epochs: int = 20_000,
    batch_size: int | None = None,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Fit:
    """Fit the data by RMSprop on the mean squared residual of the standardised columns.

    Parameters
    ----------
    data : Data
        At least as many rows as columns, target included; no column constant, no feature a combination of others.
    lr : float, default 0.01
        Learning rate at the start; it falls exponentially to 1e-8 of that at the end.
    rho, eps : float, default 0.99 and 1e-8
        As in `rmsprop_fast.init`.
    epochs : int, default 20000
        Passes over the data, at most: the fit stops when its gradient vanishes to rounding.
    batch_size : int, optional
        Rows a step, drawn without replacement; default are all.
    seed : int, default 0
        Of the start weights and batches.
    report : callable, optional
        Called with epoch and loss about 200 times.

    Raises
    ------
    InputError
        When the data cannot be fitted so, or when the fit diverges.
    """
    rows, count = data.features.shape
    if rows < count + 1:
        raise InputError(f"data: expected at least as many rows as columns ({count + 1}), got {rows}")
    target, target_mean, target_scale = _standardise(data.target, f"target {data.target_name!r}")
    standardised = [
        _standardise(column, f"feature {name!r}")
        for name, column in zip(data.feature_names, data.features.T, strict=True)
    ]
    features = np.column_stack([column for column, _, _ in standardised])
    feature_means = np.array([mean for _, mean, _ in standardised])
    feature_scales = np.array([scale for _, _, scale in standardised])
    _require_independent(features, data.feature_names)

    def in_own_units(intercept: float, coefficients: NDArray[np.float64]) -> Line:
        with np.errstate(all="ignore"):
            slopes = coefficients * target_scale / feature_scales
            constant = target_mean + target_scale * intercept - slopes @ feature_means
        if not np.isfinite([constant, *slopes]).all():
            raise InputError("data: expected units in which the coefficients are finite numbers, got larger ones")
        return Line(float(constant), dict(zip(data.feature_names, slopes.tolist(), strict=True)))

    random = np.random.default_rng(seed)
    params: dict[str, NDArray[np.float64]] = {
        "intercept": np.array(random.normal(0, START_WEIGHTS)),
        "slopes": np.array(random.normal(0, START_WEIGHTS, count)),
    }
    grads: dict[str, NDArray[np.float64]] = {"intercept": np.empty(()), "slopes": np.empty(count)}
    state = init(params, lr=lr, rho=rho, eps=eps)

    def evaluate(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        """Set `grads` to the gradient of half the mean squared residual, and return the mean squared residual."""
        residual = x @ params["slopes"] + params["intercept"] - y
        np.dot(residual, x, out=grads["slopes"])
        grads["slopes"] /= len(y)
        grads["intercept"][...] = residual.mean()
        return float(residual @ residual) / len(y)

    started = time.perf_counter()
    decay = FINAL_LEARNING_RATE ** (1 / epochs)
    size = rows if batch_size is None else min(batch_size, rows)
    epoch = 0
    with np.errstate(all="ignore"):  # a loss that overflows is reported below
        losses = [evaluate(features, target)]
        while epoch < epochs and _largest(grads) > FINISHED:
            if size < rows:
                order = random.permutation(rows)
                for begin in range(0, rows, size):
                    batch = order[begin : begin + size]
                    evaluate(features[batch], target[batch])
                    step(params, grads, state)
            else:
                step(params, grads, state)
            epoch += 1
            state.lr *= decay
            losses.append(evaluate(features, target))
            if not math.isfinite(losses[-1]):
                raise InputError(f"the fit diverged: loss not finite after {epoch} epochs; try a smaller --lr")
            if epoch % max(1, epochs // 200) == 0:
                report(epoch, losses[-1])
    seconds = time.perf_counter() - started
    if losses[-1] > losses[0]:
        raise InputError(
            f"the fit diverged: loss {losses[-1]:.3g} is above its start {losses[0]:.3g}; try a smaller --lr"
        )

    exact = np.linalg.lstsq(features, target, rcond=None)[0].astype(np.float64)
    freedom = rows - count - 1
    return Fit(
        line=in_own_units(float(params["intercept"]), params["slopes"]),
        least_squares=in_own_units(0.0, exact),
        r2=1 - losses[-1],  # the standardised target has variance 1
        residual_std=target_scale * math.sqrt(losses[-1] * rows / freedom) if freedom else None,
        epochs=epoch,
        seconds=seconds,
        converged=_largest(grads) <= CONVERGED,
        losses=losses,
    )


def _number(text: str) -> float | None:
    """Return the finite number that the text is, if it is one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _standardise(column: NDArray[np.float64], name: str) -> tuple[NDArray[np.float64], float, float]:
    """Return the column with mean 0 and variance 1, its mean, and its standard deviation."""
    if column.min() == column.max():
        raise InputError(f"{name}: expected different values, got a constant column of {column[0]:g}")
    with np.errstate(all="ignore"):
        mean = column.mean()
        deviation = column - mean
        remainder = deviation.mean()  # of columns far from 0, the mean was rounded
        deviation -= remainder
        largest = np.abs(deviation).max()  # divided out first, or the squares would over- or underflow
        scale = largest * math.sqrt(np.mean((deviation / largest) ** 2))
        standardised = deviation / scale
    if not np.isfinite(standardised).all():
        raise InputError(f"{name}: expected values whose sum is a finite number, got up to {np.abs(column).max():g}")
    return standardised, float(mean + remainder), float(scale)


def _require_independent(features: NDArray[np.float64], names: list[str]) -> None:
    if np.linalg.matrix_rank(features) == len(names):
        return
    for index in range(len(names)):
        if np.linalg.matrix_rank(features[:, : index + 1]) <= index:
            before = ", ".join(repr(name) for name in names[:index])
            raise InputError(f"feature {names[index]!r}: expected one of its own, got a linear combination of {before}")


def _largest(grads: dict[str, Any]) -> float:
    return float(max(abs(grads["intercept"]), np.abs(grads["slopes"]).max()))
