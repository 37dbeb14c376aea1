"""Columns standardised, up to rounding, and the triangular matrix that decorrelates them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rmsprop_fast.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A feature counts as a combination of others if what they leave of it has a smaller standard deviation than this, in
# standardised units.
COLLINEAR = 1e-12

# Numbers that are decomposed at a time, so that memory for it is small beside large data.
BLOCK = 1 << 19


def standardised(column: NDArray[np.float64], name: str) -> tuple[NDArray[np.float64], float, float]:
    """Return (column - centre) / scale, whose mean is near 0 and whose variance is from 1/4 to 1; and centre and scale.

    The scale is a power of two, and the centre is rounded to 1/1024 of it, so that nothing is rounded as a rule: where
    coefficients nearly cancel, rounding the data in their 16th digit changes the solution in its 6th.
    """
    if column.min() == column.max():
        raise InputError(f"{name}: expected different values, got a constant column of {column[0]:g}")
    with np.errstate(all="ignore"):
        mean = column.mean()
        deviation = column - mean
        remainder = deviation.mean()  # of columns far from 0, the mean was rounded
        deviation -= remainder
        _, largest = np.frexp(max(deviation.max(), -deviation.min()))  # or the squares would over- or underflow
        deviation = np.ldexp(deviation, -largest)
        _, exponent = np.frexp(math.sqrt(deviation @ deviation / len(column)))
        exponent += largest
        scale = np.ldexp(1.0, exponent)
        centre = np.rint((mean + remainder) / scale * 1024) / 1024 * scale
        np.subtract(column, centre, out=deviation)
        deviation = np.ldexp(deviation, -exponent)
    if not (math.isfinite(scale) and math.isfinite(centre) and np.isfinite(deviation).all()):
        raise InputError(f"{name}: expected values whose sum is a finite number, got up to {np.abs(column).max():g}")
    return deviation, float(centre), float(scale)


def decomposed(
    z: NDArray[np.float64], y: NDArray[np.float64], names: tuple[str, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return R of Z / sqrt(n) = Q R, where Z starts with a column of ones, and the solution R^-1 Q^T y / sqrt(n)."""
    rows, count = z.shape
    both = np.empty((0, count + 2))  # R and Q^T y of the rows so far
    size = max(BLOCK // (count + 2), 2 * (count + 2))  # with fewer rows, most of the work would be on R again
    for begin in range(0, rows, size):
        block = z[begin : begin + size]
        block = np.column_stack([np.ones(len(block)), block, y[begin : begin + size]])
        both = np.asarray(np.linalg.qr(np.concatenate([both, block]), mode="r"), np.float64)
    both /= math.sqrt(rows)
    root, projected = both[: count + 1, :-1], both[: count + 1, -1]
    for index in np.flatnonzero(np.abs(np.diag(root)) <= COLLINEAR)[:1]:
        shares = np.abs(np.linalg.solve(root[:index, :index], root[:index, index])[1:])
        order = np.argsort(-shares, kind="stable")
        involved = [repr(names[i]) for i in order if shares[i] > math.sqrt(COLLINEAR) * shares[order[0]]]
        more = f" and {len(involved) - 3} more" if len(involved) > 3 else ""
        raise InputError(
            f"feature {names[index - 1]!r}: expected an independent one, got a linear combination of "
            f"{', '.join(involved[:3])}{more}"
        )
    return root, np.asarray(np.linalg.solve(root, projected), np.float64)
