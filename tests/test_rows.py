"""Sparse gradients: rows and stored elements are stepped as the reference steps them, byte for byte, and nothing else."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
from bits import same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import rmsprop_fast as rf

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
LAZY = ("rows", "dense", "catch_up")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "eps inside, decoupled, maximize": {"eps_inside_sqrt": True, "weight_decay": 0.1, "decoupled": True, "maximize": True},
    "momentum": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "centered": {"centered": True, "momentum": 0.5},
    "bias_correction": {"bias_correction": True},
    "clip_value": {"clip_value": 0.5, "grad_scale": 2.0},
    "clip_norm": {"clip_norm": 0.5},
    "clip_global_norm": {"clip_global_norm": 0.5, "skip_nonfinite": True, "eps_inside_sqrt": True},
}


def is_possible(lazy: str, options: dict[str, Any]) -> bool:
    return lazy != "catch_up" or not {"momentum", "centered", "weight_decay", "bias_correction"} & options.keys()


def random_rows(random: np.random.Generator, shape: tuple[int, ...], count: int, dtype: Any) -> rf.Rows:
    rows = random.integers(0, shape[0], count).astype(random.choice([np.int32, np.int64]))
    return rf.Rows(rows, random.standard_normal((count, *shape[1:])).astype(dtype))


def copied(tree: Any) -> Any:
    return {name: array.copy() for name, array in tree.items()}


def assert_steps_are_those_of_the_reference(
    params: dict[str, NDArray[Any]], gradients: list[dict[str, Any]], **options: Any
) -> None:
    expected = copied(params)
    states = rf.init(params, **options), rf.init(expected, **options)
    for grads in gradients:
        rf.step(params, grads, states[0])
        rf.reference.step(expected, grads, states[1])
        assert (states[0].steps, states[0].skipped) == (states[1].steps, states[1].skipped)
        assert states[0].grad_norm == states[1].grad_norm
        for name in params:
            assert same_bits(params[name], expected[name])
            for kept in ("s", "variance", "grad_avg", "momentum_buffer", "_last"):
                trees = [getattr(state, kept) for state in states]
                assert trees[0] is None or np.array_equal(trees[0][name], trees[1][name], equal_nan=True)


@pytest.mark.parametrize("lazy", LAZY)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_rows_are_stepped_as_by_the_reference(lazy: str, dtype: Any, options: dict[str, Any]) -> None:
    if not is_possible(lazy, options):
        option = next(name for name in options if name in ("momentum", "centered", "weight_decay", "bias_correction"))
        with pytest.raises(ValueError, match=r"expected .* with lazy='catch_up', got") as caught:
            rf.init(np.zeros(2), lazy=lazy, **options)
        assert option in ("momentum", "centered", "weight_decay", "bias_correction") and str(caught.value)
        return
    random = np.random.default_rng(0)
    shapes = {"table": (50, 7), "deep": (6, 3, 130), "list": (300,), "dense": (40,), "number": ()}
    params = {name: np.asarray(random.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}
    gradients = []
    for step in range(5):
        grads: dict[str, Any] = {
            name: random_rows(random, shapes[name], random.integers(0, 40), dtype) for name in ("table", "deep", "list")
        }
        grads["dense"] = random.standard_normal(40).astype(dtype)
        grads["number"] = None if step == 2 else 0.5
        if step == 3:
            grads["table"] = random.standard_normal((50, 7)).astype(dtype)
        gradients.append(grads)
    assert_steps_are_those_of_the_reference(params, gradients, lazy=lazy, lr=0.1, rho=0.9, **options)
