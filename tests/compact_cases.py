"""Formats of the state and of parameters, and what two states have in common."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np

import rmsprop_fast as rf
from bits import Array, same_bits

BFLOAT16: Any = np.dtype(ml_dtypes.bfloat16)
DTYPES: list[Any] = [np.dtype(np.float32), np.dtype(np.float16), BFLOAT16]
KEPT = ("s", "variance", "grad_avg", "momentum_buffer", "low_order_bits")
FORMATS: list[dict[str, Any]] = [
    {"state_dtype": state_dtype, "rounding": rounding, "low_bits": low_bits}
    for state_dtype, rounding, low_bits in itertools.product(
        (None, "bfloat16", "uint8"), ("nearest", "stochastic"), (0, 8, 16)
    )
]


def name_of(value: Any) -> str:
    return "-".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def normal(random: np.random.Generator, shape: Any, dtype: Any) -> Array:
    return np.asarray(random.standard_normal(shape)).astype(dtype)


def kept_of(state: rf.State) -> dict[str, Array]:
    """Copies of the arrays of a state, whose parameters are a dict."""
    trees = {name: getattr(state, name) for name in KEPT}
    return {
        f"{name}[{key}]": array.copy(order="K")
        for name, tree in trees.items()
        for key, array in (tree or {}).items()
        if array is not None
    }


def require_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert same_bits(array, expected[name]), name
