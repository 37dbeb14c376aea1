"""The oracle itself: against numbers worked by hand, and against the equations in plain Python floats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import rmsprop_fast as rf

pytestmark = pytest.mark.core


@pytest.mark.parametrize("step", [rf.reference.step, rf.step])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_worked_by_hand(step: Any, dtype: Any) -> None:
    # rho = 3/4, lr = 1, eps = 2; all numbers are exact in binary.
    #   g =  4:  s = 0 + 16/4  = 4,  step size = 1 / (2 + 2) = 1/4,  p = 1 - 1 = 0
    #   g = -2:  s = 3 +  4/4  = 4,  step size = 1/4,                p = 0 + 1/2 = 1/2
    #   g =  0:  s = 3,              step size = 1 / (sqrt(3) + 2),  p = 1/2
    p = np.array([1], dtype)
    state = rf.init(p, lr=1, rho=0.75, eps=2)
    for g, s, after in [(4, 4, 0), (-2, 4, 0.5), (0, 3, 0.5)]:
        step(p, np.array([g], dtype), state)
        assert (state.s[0], p[0]) == (s, after)
    assert state.steps == 3


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 4 * 2.0**-24), (np.float64, 0)])
def test_the_equations_in_float64(dtype: Any, tolerance: float) -> None:
    """float64 equals Python's floats exactly; float32 is within four roundings of p plus the distance travelled."""
    random = np.random.default_rng(0)
    p, g, s = random.standard_normal((3, 500)).astype(dtype)
    s = abs(s)
    lr, rho, eps = 0.01, 0.9, 1e-3
    want_s = [rho * s_i + (1 - rho) * (g_i * g_i) for s_i, g_i in zip(s.tolist(), g.tolist(), strict=True)]
    moves = [lr / (math.sqrt(s_i) + eps) * g_i for s_i, g_i in zip(want_s, g.tolist(), strict=True)]
    want_p = [p_i - move for p_i, move in zip(p.tolist(), moves, strict=True)]
    scale = [abs(p_i) + abs(move) for p_i, move in zip(p.tolist(), moves, strict=True)]

    state = rf.init(p, lr=lr, rho=rho, eps=eps)
    state.s[...] = s
    rf.reference.step(p, g, state)
    assert np.all(np.abs(state.s - np.array(want_s)) <= tolerance * np.array(want_s))
    assert np.all(np.abs(p - np.array(want_p)) <= tolerance * np.array(scale))


def test_step_size_is_the_one_of_the_equations() -> None:
    p = {"a": np.zeros(3, np.float32), "b": (np.zeros(()), [np.zeros((2, 3)).T])}
    state = rf.init(p, lr={"a": 0.5, "b": (2.0, [np.full((3, 2), 4.0)])}, eps=1)
    state.s["a"][...] = [0, 1, 9]
    state.s["b"][0][...] = 9
    state.s["b"][1][0][...] = 1
    sizes = rf.step_size(state)
    np.testing.assert_array_equal(sizes["a"], np.array([0.5, 0.25, 0.125], np.float32))
    np.testing.assert_array_equal(sizes["b"][0], 0.5)
    np.testing.assert_array_equal(sizes["b"][1][0], np.full((3, 2), 2.0))
    assert [sizes["a"].dtype, sizes["b"][0].dtype, sizes["b"][0].shape] == [np.float32, np.float64, ()]
    assert isinstance(sizes["b"], tuple)
    sizes["a"][...] = 7
    assert state.s["a"][0] == 0  # new arrays, not the live ones


def test_it_learns() -> None:
    """A quadratic bowl: whatever the details, the method must find the bottom."""
    p = np.array([3.0, -2.0])
    state = rf.init(p, lr=0.1, rho=0.9)
    for t in range(500):
        state.lr = 0.1 * 0.98**t
        rf.step(p, p * [1, 100], state)
    assert np.abs(p).max() < 1e-3
