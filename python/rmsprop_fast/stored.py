"""Numbers rounded to the formats in which a compact state and parameters are stored, in plain NumPy.

The part of `rmsprop_fast.reference` for ``state_dtype``, ``rounding`` and ``low_bits``. docs/compact.md explains the
formats. All numbers are float32 before and after.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["join", "places_in_memory", "round_means", "round_parameters", "row_width", "split", "words"]

BLOCK = 128
LEAST_WIDTH = 32
ARRAYS = ("params", "s", "grad_avg", "momentum_buffer")
WEYL = 0x9E3779B9


def words(steps: int, array: str, places: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return what stands for chance in a step, for elements at these places in memory: 2**32 times a number in [0, 1).

    A Weyl sequence along the elements, which begins at a hash (the finalizer of MurmurHash3) of the step and the array.
    """
    word = (int(float(steps)) * 4 + ARRAYS.index(array)) % 2**32
    word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
    word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
    return np.uint32(word ^ word >> 16) + places.astype(np.uint32) * np.uint32(WEYL)


def places_in_memory(array: NDArray[Any]) -> NDArray[np.int64]:
    """Return an array of the same shape: how many elements lie before each in memory."""
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    places = np.arange(array.size).reshape([array.shape[axis] for axis in order])
    return places.transpose(np.argsort(order)) if array.ndim else places


def row_width(array: NDArray[Any]) -> int:
    """Return how many elements a row has that blocks do not reach over; without such rows, the whole array is one."""
    width = math.prod(array.shape[1:])
    has_rows = array.ndim > 0 and (len(array) == 1 or array.strides[0] == width * array.itemsize)
    return width if has_rows and width >= LEAST_WIDTH else array.size


def round_bits(bits: NDArray[np.uint32], cut: int, word: NDArray[np.uint32] | None) -> NDArray[np.uint32]:
    """Round away the lowest bits: to the nearest, of two the even one; or up if they and a word's upper bits carry."""
    if word is None:
        word = np.uint32(2 ** (cut - 1) - 1) + (bits >> np.uint32(cut) & np.uint32(1)) << np.uint32(32 - cut)
    return bits + (word >> np.uint32(32 - cut)) >> np.uint32(cut) << np.uint32(cut)


def round_float(x: NDArray[Any], cut: int, word: NDArray[np.uint32] | None) -> NDArray[Any]:
    """Round to a float32 whose lowest bits are 0."""
    return np.where(np.isnan(x), np.float32(np.nan), round_bits(x.view(np.uint32), cut, word).view(np.float32))


def round_float16(x: NDArray[Any], word: NDArray[np.uint32]) -> NDArray[Any]:
    """Round to a float16: up, in magnitude, if what is above the lower one exceeds the word's share of a step."""
    magnitude = np.minimum(np.abs(x), np.float32(2**16)).astype(np.float64)
    _, exponent = np.frexp(magnitude)
    step = np.ldexp(1.0, np.maximum(exponent - 1, -14) - 10)
    below = np.floor(magnitude / step)
    rounded = (below + (magnitude / step - below > (word >> 8) / 2.0**24)) * step
    rounded = np.copysign(np.where(rounded > 65504, np.inf, rounded), x)
    return np.where(np.isnan(x), np.nan, rounded).astype(np.float16)


def round_parameters(x: NDArray[Any], dtype: np.dtype[Any], low_bits: int, word: NDArray[np.uint32] | None) -> Any:
    """Round to the dtype of a parameter, or to what it is with its low bits, as float32 then."""
    if dtype.name == "float16" and word is not None:
        return round_float16(x, word)
    if dtype.name == "bfloat16" and low_bits < 16:
        return round_float(x, 16 - low_bits, word)
    return x


def round_means(
    x: NDArray[Any],
    dtype: str,
    is_signed: bool,
    word: NDArray[np.uint32] | None,
    places: NDArray[np.int64],
    width: int,
) -> NDArray[Any]:
    """Round numbers at these places in memory to 'bfloat16', or to 'uint8' in rows of this width."""
    if dtype == "bfloat16":
        return round_float(x, 16, word)
    rounded = np.empty_like(x)
    row, column = np.divmod(places, max(width, 1))
    block_of = row * -(-width // BLOCK) + column // BLOCK
    for number in np.unique(block_of):
        block = block_of == number
        rounded[block] = round_block(x[block], is_signed, None if word is None else word[block])
    return rounded


def round_block(x: NDArray[Any], is_signed: bool, word: NDArray[np.uint32] | None) -> NDArray[Any]:
    """Round to codes of 8 bits.

    A code is ``|x| / unit + least``, a float with 3 bits of fraction, counted from `least` on. The unit is the least
    power of two that is not below the largest finite number of the block. What is not finite gets the highest code.
    """
    largest = np.max(np.abs(x), initial=0, where=np.isfinite(x))
    exponent = np.clip((int(np.float32(largest).view(np.int32)) - 1 >> 23) + 1, 1, 253)
    unit, one_over_unit = np.array([exponent << 23, (254 - exponent) << 23], np.uint32).view(np.float32)
    least = np.float32(2.0**-15 if is_signed else 2.0**-31)
    bits = (np.abs(x) * one_over_unit + least).view(np.uint32)
    first = least.view(np.uint32)
    codes = np.minimum(round_bits(bits - first, 20, word) >> 20, 127 if is_signed else 255)
    numbers = (((codes << 20) + first).view(np.float32) - least) * unit
    return np.asarray(np.copysign(numbers, np.where(np.isnan(x), 1, x)) if is_signed else numbers)


def join(params: NDArray[Any], low: NDArray[Any]) -> NDArray[Any]:
    """Return bfloat16 parameters with the bits below them, as float32."""
    lower = low.astype(np.uint32) << (16 - 8 * low.itemsize)
    return (params.astype(np.float32).view(np.uint32) | lower).view(np.float32)


def split(numbers: NDArray[Any], params: NDArray[Any], low: NDArray[Any]) -> None:
    """Store float32 numbers in bfloat16 parameters and the bits below them."""
    bits = np.where(np.isnan(numbers), np.uint32(0x7FC00000), numbers.view(np.uint32))
    params.view(np.uint16)[...] = bits >> 16
    low[...] = bits >> (16 - 8 * low.itemsize) & 256**low.itemsize - 1
