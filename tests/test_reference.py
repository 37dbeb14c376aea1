"""The oracle itself: against numbers worked by hand, and against the equations in plain Python floats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import rmsprop_fast as rf
from bits import same_bits

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


@pytest.mark.parametrize("more", [1, 5, 13, 21])
def test_bias_correction_after_more_steps_than_a_float_counts(more: int) -> None:
    """With the largest rho below 1, whose powers still matter then."""
    g = np.linspace(-2, 2, 9)
    p, expected = np.ones(9), np.ones(9)
    state, expected_state = (rf.init(each, bias_correction=True, rho=1 - 2.0**-53, lr=1) for each in (p, expected))
    for each in (state, expected_state):
        each.s[...] = 1
        each.steps = 2**53 + more
    rf.step(p, g, state)
    rf.reference.step(expected, g, expected_state)
    assert same_bits(state.s, expected_state.s)
    assert same_bits(p, expected)


def misleading(container: Any) -> Any:
    """Return a subclass whose own methods tell nothing of what it holds."""

    def refuse(*_: Any) -> Any:
        raise AssertionError

    names = ("__getitem__", "__iter__", "__len__", "__contains__", "keys", "values", "items", "get", "index", "count")
    return type("Misleading", (container,), {name: refuse for name in names if hasattr(container, name)})


@pytest.mark.parametrize("step", [rf.reference.step, rf.step])
def test_containers_count_by_what_they_hold(step: Any) -> None:
    mapping, row, pair = (misleading(container) for container in (dict, list, tuple))
    leaves, grads = [np.zeros(3), np.zeros(2), np.zeros(1)], [np.ones(3), np.ones(2), np.ones(1)]

    def tree(parts: list[Any]) -> Any:
        return mapping(a=row([parts[0], pair([parts[1]])]), b=parts[2])

    state = rf.init(tree(leaves))
    step(tree(leaves), tree(grads), state)
    assert state.steps == 1
    assert all(np.all(leaf < 0) for leaf in leaves)


def test_it_learns() -> None:
    """A quadratic bowl: whatever the details, the method must find the bottom."""
    p = np.array([3.0, -2.0])
    state = rf.init(p, lr=0.1, rho=0.9)
    for t in range(500):
        state.lr = 0.1 * 0.98**t
        rf.step(p, p * [1, 100], state)
    assert np.abs(p).max() < 1e-3


# Worked by hand with numbers that are exact in binary, D being the divisor and u the step. Each row: hyper-parameters,
# with lr of each step (else 1); where p starts; for each step g, and p after it.
HAND_WORKED: list[tuple[dict[str, Any], float, list[tuple[float, float]]]] = [
    # s = 16/4 = 4, D = 2 + 2, u = 1, b = 1; then s = 3 + 1 = 4, u = -1/2, b = 1/2 - 1/2; then u = -1/2, b = -1/2
    ({"rho": 0.75, "eps": 2, "momentum": 0.5}, 8, [(4, 7), (-2, 7), (-2, 7.5)]),
    # moves of u + b/2: 1 + 1/2; -1/2 + 0; -1/2 - 1/4
    ({"rho": 0.75, "eps": 2, "momentum": 0.5, "nesterov": True}, 8, [(4, 6.5), (-2, 7), (-2, 7.75)]),
    # moves of lr * b: 4 * 1; 2 * 0; 2 * -1/2
    ({"lr": [4, 2, 2], "rho": 0.75, "eps": 2, "momentum": 0.5}, 8, [(4, 4), (-2, 4), (-2, 5)]),
    # b = 4; 4/2 - 2/2 = 1; 1/2 - 2/2 = -1/2
    (
        {"lr": [4, 2, 2], "rho": 0.75, "eps": 2, "momentum": 0.5, "lr_in_momentum": True},
        8,
        [(4, 4), (-2, 3), (-2, 3.5)],
    ),
    # v = 16/2 + (2 - 0)**2/4 = 9, m = 1, D = 3 + 1, u = 4/4 * 2; then v = 9/2 + (5/2 - 1)**2/4 = (9/4)**2, D = 13/4
    ({"lr": [4, 3.25], "rho": 0.5, "eps": 1, "centered": True, "initial_s": 16}, 8, [(2, 6), (2.5, 3.5)]),
    # D = sqrt(4 + 12) both times
    ({"rho": 0.75, "eps": 12, "eps_inside_sqrt": True}, 8, [(4, 7), (-2, 7.5)]),
    # s = 3/4 * 20 + 1/4 * 4 = 16, D = 4
    ({"rho": 0.75, "eps": 0, "initial_s": 20}, 8, [(2, 7.5)]),
    # rho_1 = 0, so s = 16, D = 4
    ({"rho": 0.5, "eps": 0, "bias_correction": True}, 8, [(4, 7)]),
    # g = 2 + 8/4 = 4
    ({"rho": 0.75, "eps": 2, "weight_decay": 0.25}, 8, [(2, 7)]),
    # p = 8 - 8/4 = 6, then u = 1
    ({"rho": 0.75, "eps": 2, "weight_decay": 0.25, "decoupled": True}, 8, [(4, 5)]),
    # the gradient is negated, the decay is not: g = -4 + 8/4 = -2, s = 1, D = 1 + 3
    ({"rho": 0.75, "eps": 3, "weight_decay": 0.25, "maximize": True}, 8, [(4, 8.5)]),
    ({"rho": 0.75, "eps": 2, "maximize": True}, 8, [(4, 9)]),
    # g = 32/8 = 4
    ({"rho": 0.75, "eps": 2, "grad_scale": 8}, 8, [(32, 7)]),
    # g = 16/2 = 8, clipped to 4; then -4/2
    ({"rho": 0.75, "eps": 2, "grad_scale": 2, "clip_value": 4}, 8, [(16, 7), (-4, 7.5)]),
    ({"rho": 0.75, "eps": 2, "grad_scale": 2, "clip_norm": 4}, 8, [(16, 7), (-4, 7.5)]),
    ({"rho": 0.75, "eps": 2, "grad_scale": 2, "clip_global_norm": 4}, 8, [(16, 7), (-4, 7.5)]),
]


@pytest.mark.parametrize("step", [rf.reference.step, rf.step])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize(("hyper", "start", "steps"), HAND_WORKED, ids=[", ".join(row[0]) for row in HAND_WORKED])
def test_the_family_worked_by_hand(
    step: Any, dtype: Any, hyper: dict[str, Any], start: float, steps: list[tuple[float, float]]
) -> None:
    rates = hyper.get("lr", [1] * len(steps))
    p = np.array([start], dtype)
    state = rf.init(p, **{**hyper, "lr": 1})
    for lr, (g, after) in zip(rates, steps, strict=True):
        state.lr = lr
        step(p, np.array([g], dtype), state)
        assert p[0] == after


@pytest.mark.parametrize("step", [rf.reference.step, rf.step])
@pytest.mark.parametrize(
    ("clip", "g_after"),
    [({"clip_norm": 2}, [1.2, 1.6, 2]), ({"clip_global_norm": 6.5}, [1.5, 2, 6]), ({"clip_norm": 99}, [3, 4, 12])],
)
def test_norms_of_leaves_and_of_the_tree(step: Any, clip: dict[str, Any], g_after: list[float]) -> None:
    """Gradients (3, 4) and 12: norms of 5 and 12, together 13."""
    p = [np.zeros(2), np.zeros(1)]
    state = rf.init(p, rho=0, eps=0, **clip)
    step(p, [np.array([3.0, 4.0]), np.array([12.0])], state)
    assert state.grad_norm == 13
    got = np.sqrt(np.concatenate(state.s))  # with rho = 0, s = g**2
    np.testing.assert_allclose(got, g_after, rtol=1e-15)
