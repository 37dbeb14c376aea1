"""The main job: fit a line, or a plane of any dimension, to data by RMSprop.

The model of the fit. Columns are standardised, up to rounding: moved to a mean near 0, and divided by the power of two
just above their standard deviation, so that no digit of the data is lost. Then they are decorrelated: with Z the column
of ones and the standardised features (n rows), and Z / sqrt(n) = Q R its QR decomposition, RMSprop moves the weights w
of Z R^-1, whose columns are uncorrelated and of variance 1. That is, the residual is that of the coefficients
u = R^-1 w, and the gradient of half the mean squared residual in u, taken to w, is R^-T Z^T residual / n. At the end u
is reported in the units of the data.
"""

from __future__ import annotations

import math
import time
import warnings
from typing import TYPE_CHECKING

import numpy as np

from rmsprop_fast._core import init, step
from rmsprop_fast.errors import InputError
from rmsprop_fast.regression.decorrelation import decomposed, standardised
from rmsprop_fast.regression.model import LinearModel, feature_columns, numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

# Largest component of the gradient of a fit that converged, in standardised and decorrelated units; or of one that has
# come as near as rounding allows, EPSILON times the condition number, if that is more: rounding leaves a tenth of it.
CONVERGED = 1e-9
EPSILON = float(np.finfo(np.float64).eps)

# A fit has come as near as rounding allows when its gradient has not fallen for so many epochs.
PATIENCE = 5

# With batches, whose gradients do not vanish, the learning rate falls exponentially to this share of its start.
FINAL_LEARNING_RATE = 1e-8

# With fewer digits of the coefficients or of the data, a warning says how few they are.
ENOUGH_DIGITS = 6

# Standard deviation of the start weights, in standardised units.
START_WEIGHTS = 0.01


def fit(
    features: ArrayLike,
    target: ArrayLike,
    *,
    lr: float = 0.5,
    rho: float = 0.99,
    eps: float = 1e-8,
    epochs: int = 1000,
    batch_size: int | None = None,
    seed: int = 0,
    feature_names: Sequence[str] | None = None,
    target_name: str | None = None,
    report: Callable[[int, float], object] | None = None,
) -> LinearModel:
    """Linear regression by RMSprop: fit ``target = intercept + features @ coefficients`` to n rows of data.

    Every update is an `rmsprop_fast.step` on the mean squared residual. The columns are standardised and decorrelated
    inside, which is undone in what is returned; so neither units nor correlations matter, as long as double precision
    can tell the features apart.

    Parameters
    ----------
    features : array_like of shape (n, k), or (n,) for a single feature
        Finite numbers; or a data frame, such as pandas'. Never written to.
    target : array_like of shape (n,)
        Finite numbers; at least k + 1 of them.
    lr : float, default 0.5
        Learning rate at the start: the share of its way that a weight goes in the first epochs. The loss falls in
        every epoch, until rounding is reached, for any lr above 0 and below 2.
    rho, eps : float, default 0.99 and 1e-8
        As in `rmsprop_fast.init`.
    epochs : int, default 1000
        Passes over the data, at most: the fit stops when its gradient vanishes to rounding (after about 60).
    batch_size : int, optional
        Rows a step, drawn without replacement; default is all. Batches only come near the minimum, and take all the
        epochs.
    seed : int, default 0
        Of the start weights and batches.
    feature_names, target_name : sequence of str and str, optional
        Names for messages and results; defaults are those of the data frame and series, or x1, x2, ... and y.
    report : callable, optional
        Called with the epoch and the loss after each epoch.

    Returns
    -------
    LinearModel

    Raises
    ------
    InputError
        A ValueError: when the data or an option does not allow a fit, or when the fit diverges.

    Warns
    -----
    RuntimeWarning
        When the fit has not converged; when the features are so nearly collinear that double precision cannot give
        six digits of the coefficients; or when a column is so far from 0 that it cannot hold six digits of the
        differences between the values.

    Examples
    --------
    >>> model = fit([1.0, 2.0, 3.0, 4.0], [3.0, 5.0, 7.0, 9.0])
    >>> print(f"{model.intercept:.6f} {model.coefficients[0]:.6f} {model.predict([5.0])[0]:.6f}")
    1.000000 2.000000 11.000000
    """
    wholes = [("epochs", epochs, 1), ("batch_size", 1 if batch_size is None else batch_size, 1), ("seed", seed, 0)]
    for option, value, least in wholes:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise InputError(f"{option}: expected a whole number of at least {least}, got {value!r}")
    columns, names = feature_columns(features, None if feature_names is None else tuple(map(str, feature_names)))
    if target_name is None:
        target_name = getattr(target, "name", None)  # of a series
    target_name = "y" if target_name in (None, "") else str(target_name)
    measured = numbers(target, f"target {target_name!r}")
    if measured.shape != (len(columns),):
        raise InputError(f"target {target_name!r}: expected shape {(len(columns),)}, got {measured.shape}")
    rows, count = columns.shape
    if rows < count + 1:
        raise InputError(
            f"data: expected at least {count + 1} rows, one for each feature and for the intercept, got {rows}"
        )

    y, y_centre, y_scale = standardised(measured, f"target {target_name!r}")
    z = np.empty(columns.shape, order="F")  # column by column it is made, and multiplied faster
    centres, scales = np.empty((2, count))
    for index, name in enumerate(names):
        z[:, index], centres[index], scales[index] = standardised(columns[:, index], f"feature {name!r}")
    root, exact = decomposed(z, y, names)
    inverse = np.asarray(np.linalg.inv(root), np.float64)
    condition_number = float(np.linalg.cond(root))

    started = time.perf_counter()
    weights, losses, gradient = _descend(z, y, inverse, (lr, rho, eps), epochs, batch_size or rows, seed, report)
    seconds = time.perf_counter() - started

    def in_own_units(standardised: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        with np.errstate(all="ignore"):
            coefficients = standardised[1:] * y_scale / scales
            intercept = float(y_centre + y_scale * standardised[0] - coefficients @ centres)
        if not np.isfinite([intercept, *coefficients]).all():
            raise InputError(
                "data: expected units in which the coefficients are finite numbers, got ones that overflow"
            )
        return intercept, coefficients

    intercept, coefficients = in_own_units(inverse @ weights)
    exact_intercept, exact_coefficients = in_own_units(exact)
    # The covariance of the standardised coefficients is residual_std**2 (Z^T Z)^-1 = residual_std**2 / n R^-1 R^-T.
    freedom = rows - count - 1
    residual_std = y_scale * math.sqrt(losses[-1] * rows / freedom) if freedom else math.nan
    errors = inverse / math.sqrt(rows)
    with np.errstate(over="ignore"):
        standard_errors = residual_std * np.linalg.norm(errors[1:], axis=1) / scales
    if np.isinf(standard_errors).any():
        raise InputError("data: expected units in which standard errors are finite numbers, got ones that overflow")
    variance = float(y.var())
    has_stopped = len(losses) - 1 < epochs  # by itself
    most = max(CONVERGED, EPSILON * condition_number) if has_stopped else CONVERGED
    converged = bool(np.abs(gradient).max() <= most)
    found = [] if converged else [_unconverged(len(losses) - 1, epochs, batch_size is not None and batch_size < rows)]
    offsets = {f"target {target_name!r}": abs(y_centre) / y_scale}
    offsets |= {f"feature {name!r}": offset for name, offset in zip(names, abs(centres) / scales, strict=True)}
    found += _imprecisions(condition_number, offsets)
    model = LinearModel(
        feature_names=names,
        target_name=target_name,
        intercept=intercept,
        coefficients=coefficients,
        intercept_standard_error=float(residual_std * np.linalg.norm(errors[0] - (centres / scales) @ errors[1:])),
        standard_errors=standard_errors,
        least_squares_intercept=exact_intercept,
        least_squares_coefficients=exact_coefficients,
        r2=1 - losses[-1] / variance,
        residual_std=residual_std,
        condition_number=condition_number,
        rows=rows,
        epochs=len(losses) - 1,
        seconds=seconds,
        converged=converged,
        warnings=tuple(found),
        losses=np.array(losses) / variance,
    )
    for text in model.warnings:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return model


def _descend(
    z: NDArray[np.float64],
    y: NDArray[np.float64],
    inverse: NDArray[np.float64],
    hyper: tuple[float, float, float],
    epochs: int,
    batch_size: int,
    seed: int,
    report: Callable[[int, float], object] | None,
) -> tuple[NDArray[np.float64], list[float], NDArray[np.float64]]:
    """Return the weights at the end, the mean squared residual of each epoch, and the gradient at the end."""
    random = np.random.default_rng(seed)
    rows = len(y)
    weights = random.normal(0, START_WEIGHTS, len(inverse))
    gradient = np.empty_like(weights)
    lr, rho, eps = hyper
    # No component of the gradient is larger than about 1, the norm of the target: with s = 1 at the start, the first
    # steps go about lr of the way, for every weight.
    try:
        state = init(weights, lr=lr, rho=rho, eps=eps, initial_s=1.0)
    except ValueError as error:
        raise InputError(str(error)) from None
    if np.ndim(state.lr):
        raise InputError(f"lr: expected a number, got an array of shape {np.shape(state.lr)}")

    def evaluate(z: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        """Set `gradient` to that of half the mean squared residual, and return the mean squared residual."""
        coefficients = inverse @ weights
        residual = z @ coefficients[1:]
        residual += coefficients[0]
        residual -= y
        np.dot(np.array([residual.sum(), *(residual @ z)]), inverse, out=gradient)
        np.divide(gradient, len(y), out=gradient)
        return float(residual @ residual) / len(y)

    # All rows: s falls by no more than rho a step, so with sqrt(rho) no step size is ever above lr; as the second
    # derivative is 1 for every weight, each step below 2 leads nearer to the minimum.
    in_batches = batch_size < rows
    decay = FINAL_LEARNING_RATE ** (1 / epochs) if in_batches else math.sqrt(rho)
    smallest, waited = math.inf, 0
    with np.errstate(all="ignore"):  # a loss that overflows is reported below
        losses = [evaluate(z, y)]
        for epoch in range(1, epochs + 1):
            state.lr *= decay
            if in_batches:
                order = random.permutation(rows)
                for begin in range(0, rows, batch_size):
                    batch = order[begin : begin + batch_size]
                    evaluate(z[batch], y[batch])
                    step(weights, gradient, state)
            else:
                step(weights, gradient, state)
            losses.append(evaluate(z, y))
            if not math.isfinite(losses[-1]):
                raise InputError(f"the fit diverged: the loss is not finite in epoch {epoch}; try a smaller lr")
            if report:
                report(epoch, losses[-1])
            largest = np.abs(gradient).max()
            smallest, waited = (largest, 0) if largest < smallest else (smallest, waited + 1)
            if not in_batches and waited == PATIENCE:
                break
    if losses[-1] > losses[0]:
        raise InputError(
            f"the fit diverged: loss {losses[-1]:.3g} is above its start {losses[0]:.3g}; try a smaller lr"
        )
    return weights, losses, gradient


def _unconverged(done: int, epochs: int, in_batches: bool) -> str:
    """Return the warning that a fit did not converge in the epochs done, with the remedy."""
    if in_batches:
        remedy = "no batch size, which takes all rows"
    else:
        remedy = ("more epochs, or " if done == epochs else "") + "lr and rho nearer to 1"
    return f"the fit did not converge in {done} epochs; try {remedy}"


def _imprecisions(condition_number: float, offsets: dict[str, float]) -> list[str]:
    """Return warnings of what double precision cannot give; offsets are means in standard deviations, by column."""

    def digits(amplification: float) -> int:
        return max(0, int(-math.log10(EPSILON * max(1.0, amplification))))

    found = []
    if digits(condition_number) < ENOUGH_DIGITS:
        found.append(
            f"the features are nearly collinear (condition number {condition_number:.1e}): double precision gives "
            f"about {digits(condition_number)} digits of the coefficients"
        )
    farthest = max(offsets, key=offsets.__getitem__)
    if digits(offsets[farthest]) < ENOUGH_DIGITS:
        found.append(
            f"{farthest}: its values are so far from 0 that double precision holds about {digits(offsets[farthest])} "
            "digits of their differences"
        )
    return found
