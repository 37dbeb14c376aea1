"""Values that break kernels, and what it means for two arrays to be the same."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def same_bits(a: Array, b: Array) -> bool:
    """Are all bytes equal, where any NaN equals any NaN?"""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    unsigned = f"u{a.dtype.itemsize}"
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return bool(np.all((a.view(unsigned) == b.view(unsigned)) | (np.isnan(a) & np.isnan(b))))


def extremes(dtype: Any) -> Array:
    """Zeros, subnormals, the largest and smallest numbers, infinities and NaN, of both signs."""
    real: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    tiny, least, most = (float(x) for x in (real.tiny, real.smallest_subnormal, real.max))
    positive = [0, least, tiny / 3, tiny, 1e-30, 1e-12, 0.1, 1, 1e12, 1e30, most, np.inf]
    with np.errstate(over="ignore", under="ignore"):
        return np.array([*positive, *(-x for x in positive), np.nan]).astype(dtype)


def hard_values(random: np.random.Generator, size: int, dtype: Any) -> Array:
    """Half of them numbers of all magnitudes, half extremes."""
    magnitudes = random.choice([-1, 1], size) * 10 ** random.uniform(-38, 30, size)
    with np.errstate(over="ignore", under="ignore"):
        return np.where(random.random(size) < 0.5, magnitudes.astype(dtype), random.choice(extremes(dtype), size))


class Embedded:
    """A copy of the values `offset` elements after a cache line, in the middle of sevens."""

    def __init__(self, values: Array, offset: int) -> None:
        block = np.full(values.size + 64, 7, values.dtype)
        start = (-block.ctypes.data % 64) // values.itemsize + offset
        self.before, self.values, self.after = np.split(block, [start, start + values.size])
        self.values[...] = values

    def is_intact_around(self) -> bool:
        return bool(np.all(self.before == 7) and np.all(self.after == 7))
