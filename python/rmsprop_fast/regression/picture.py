"""The picture of a fit: the data and the model, the residuals, and how the loss fell."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from rmsprop_fast.regression.model import LinearModel

# With more rows, points would cover each other, and are counted in hexagons instead.
MOST_POINTS = 5000

# Of a column, and of a line of a title; in characters.
LONGEST_NAME = 24
LONGEST_LINE = 45

BLUE, ORANGE = "#1f5fa8", "#d95f02"


def draw(model: LinearModel, features: NDArray[np.float64], target: NDArray[np.float64]) -> Figure:
    """Draw the fit of features (n, k) and target (n,).

    With one feature the first panel has the data and the line; with more, measured values over fitted ones.
    """
    from matplotlib.figure import Figure

    fitted = model.predict(features)
    name, (feature_name, *_) = _plain(model.target_name), map(_plain, model.feature_names)
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    first, second, third = figure.subplots(1, 3)

    if len(model.coefficients) == 1:
        (feature,) = features.T
        _points(first, feature, target)
        ends = np.array([feature.min(), feature.max()])
        first.plot(ends, model.predict(ends), color=ORANGE, linewidth=1.5, label="fitted line")
        first.set(xlabel=feature_name, ylabel=name)
        slope = model.coefficients[0]
        first.set_title(f"{name} = {model.intercept:.5g} {'-' if slope < 0 else '+'} {abs(slope):.5g} {feature_name}")
    else:
        _points(first, fitted, target)
        ends = np.array([min(fitted.min(), target.min()), max(fitted.max(), target.max())])
        first.plot(ends, ends, color=ORANGE, linewidth=1.5, label="measured = fitted")
        first.set(xlabel=f"{name}, fitted", ylabel=f"{name}, measured")
        first.set_title(f"{len(target):,} rows, {len(model.coefficients)} features, R² = {model.r2:.4g}")
    first.legend(loc="best", frameon=False)

    _points(second, fitted, target - fitted)
    second.axhline(0, color=ORANGE, linewidth=1.5)
    second.set(xlabel=f"{name}, fitted", ylabel="residual: measured - fitted")
    known = np.isfinite(model.residual_std)
    second.set_title(f"Residuals, standard deviation {model.residual_std:.4g}" if known else "Residuals")

    third.plot(model.losses, color=BLUE)
    third.set(xlabel="epoch (pass over the data)", ylabel="share of the variance not explained")
    if model.losses.min() < model.losses.max() / 10:  # else a logarithmic axis has hardly any ticks
        third.set_yscale("log")
    else:
        third.ticklabel_format(axis="y", useOffset=False)
    third.set_title(f"{'Converged' if model.converged else 'Not converged'} after {model.epochs:,} epochs")

    for axes in (first, second, third):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(textwrap.fill(axes.get_title(), LONGEST_LINE), fontsize=11)
    return figure


def _points(axes: Any, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    if len(x) <= MOST_POINTS:
        axes.plot(x, y, "o", color=BLUE, markersize=4, alpha=0.7, markeredgewidth=0, label="data")
    else:
        cells = axes.hexbin(x, y, gridsize=60, bins="log", mincnt=1, cmap="Blues", linewidths=0)
        axes.figure.colorbar(cells, ax=axes, label="rows")


def _plain(name: str) -> str:
    """Return the name in a length that fits, and so that matplotlib takes no part of it for a formula."""
    name = " ".join(name.split())
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return short.replace("$", r"\$")
