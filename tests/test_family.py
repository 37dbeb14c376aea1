"""Promise 1 for the whole family: every legal combination of hyper-parameters and element types, byte for byte."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rmsprop_fast as rf
from bits import Array, extremes, same_bits
from family_cases import MOMENTUM, OTHERS, combinations
from rmsprop_fast import _core

BFLOAT16: Any = np.dtype(ml_dtypes.bfloat16)
TYPES: list[tuple[Any, Any]] = [  # of parameters and gradients
    (np.float32, np.float32),
    (np.float64, np.float64),
    (np.float16, np.float16),
    (BFLOAT16, BFLOAT16),
    (np.float32, np.float16),
    (np.float32, BFLOAT16),
    (np.float16, np.float32),
    (BFLOAT16, np.float32),
    (np.float16, BFLOAT16),
    (BFLOAT16, np.float16),
]
SIZES = [37, 70, 1, 100, 16, 53, 33, 135, 18, 7]
KERNELS_AND_THREADS = list(itertools.product(rf.kernels(), [1, 2, 7]))


class Problem:
    """A leaf of each pair of types, and gradients of two steps; the second ones are not all finite."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)

        def normal(size: int, dtype: Any) -> Array:
            return random.standard_normal(size).astype(dtype)

        self.params = [normal(size, p) for size, (p, _) in zip(SIZES, TYPES, strict=True)]
        self.grads = [
            [normal(size, g) for size, (_, g) in zip(SIZES, TYPES, strict=True)],
            [random.choice(extremes(g), size) for size, (_, g) in zip(SIZES, TYPES, strict=True)],
        ]
        self.lr = [random.uniform(0, 0.1, size) for size in SIZES]
        self.s = [abs(normal(size, np.float64)) for size in SIZES]
        self.other = [normal(size, np.float64) for size in SIZES]

    def init(self, params: Any, hyper: dict[str, Any]) -> rf.State:
        return rf.init(params, **{**hyper, "lr": self.lr if hyper.get("lr") == "arrays" else hyper["lr"]})

    def restart(self, params: list[Array], state: rf.State) -> None:
        state.steps, state.skipped = 3, 0
        for kept, values in (
            (params, self.params),
            (state.variance if state.centered else state.s, self.s),
            (state.grad_avg or [], self.other),
            (state.momentum_buffer or [], self.other),
        ):
            for array, value in zip(kept, values, strict=False):
                array[...] = value


PROBLEM = Problem()


def everything(params: list[Array], state: rf.State) -> list[Array]:
    means = state.variance if state.centered else state.s
    return [*params, *means, *(state.grad_avg or []), *(state.momentum_buffer or [])]


def fingerprint(arrays: list[Array]) -> list[bytes]:
    """Return the bytes, where all NaNs are the same one: quicker than `same_bits`, as there are millions to compare."""
    found = []
    for dtype in {array.dtype.name: array.dtype for array in arrays}.values():
        joined = np.concatenate([array for array in arrays if array.dtype == dtype])
        joined[np.isnan(joined)] = np.nan
        found.append(joined.tobytes())
    return found


def check(hyper: dict[str, Any]) -> None:
    """Take two steps by the reference and by each kernel and thread count."""
    problem = PROBLEM
    expected, params = ([p.copy() for p in problem.params] for _ in range(2))
    expected_state, state = problem.init(expected, hyper), problem.init(params, hyper)
    _core._set_share(0)  # threads even for the smallest work

    problem.restart(expected, expected_state)
    want = []
    for grads in problem.grads:
        rf.reference.step(expected, grads, expected_state)
        counts = (expected_state.steps, expected_state.skipped, expected_state.grad_norm)
        want.append((fingerprint(everything(expected, expected_state)), counts))
    assert expected_state.skipped == hyper.get("skip_nonfinite", False)

    for kernel, threads in KERNELS_AND_THREADS:
        rf.set_kernel(kernel)
        rf.set_num_threads(threads)
        problem.restart(params, state)
        for grads, (written, counts) in zip(problem.grads, want, strict=True):
            rf.step(params, grads, state)
            assert fingerprint(everything(params, state)) == written, (hyper, kernel, threads)
            assert repr((state.steps, state.skipped, state.grad_norm)) == repr(counts), (hyper, kernel, threads)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", MOMENTUM, ids=lambda momentum: "-".join(momentum) or "none")
def test_every_legal_combination(momentum: dict[str, Any], centered: bool) -> None:
    for others in combinations(*OTHERS):
        check({**momentum, **others, "centered": centered})


@pytest.mark.core
def test_some_combinations() -> None:
    """For sanitizers and emulators, where all would take too long."""
    some = combinations(MOMENTUM, [{"centered": False}, {"centered": True}], *OTHERS)[::197]
    assert {key for hyper in some for key in hyper} == {
        key for row in (MOMENTUM, *OTHERS) for d in row for key in d
    } | {"centered"}
    for hyper in [*some, {"lr": 0.01, "decoupled": True}]:
        check(hyper)


@pytest.mark.core
@pytest.mark.parametrize("kernel", rf.kernels())
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("clip", [{"clip_norm": 3.0}, {"clip_global_norm": 3.0}, {"skip_nonfinite": True}], ids=repr)
def test_norms_of_many_blocks(kernel: str, threads: int, clip: dict[str, Any]) -> None:
    """Sums have the same bits however threads share them out, at lengths around those of blocks and lanes."""
    rf.set_kernel(kernel)
    rf.set_num_threads(threads)
    _core._set_share(0)
    random = np.random.default_rng(1)
    sizes = [0, 1, 15, 16, 17, 4095, 4096, 4097, 0, 30_001, 8192]
    for p_type, g_type in TYPES:
        params = [random.standard_normal(size).astype(p_type) for size in sizes]
        grads = [(random.standard_normal(size) * 10 ** random.uniform(-3, 3, size)).astype(g_type) for size in sizes]
        expected = [p.copy() for p in params]
        state, expected_state = rf.init(params, **clip), rf.init(expected, **clip)
        rf.step(params, grads, state)
        rf.reference.step(expected, grads, expected_state)
        assert state.grad_norm == expected_state.grad_norm
        norm = math.sqrt(math.fsum(float(x) ** 2 for g in grads for x in g.tolist()))
        assert state.grad_norm == pytest.approx(norm, rel=1e-12)
        assert fingerprint(everything(params, state)) == fingerprint(everything(expected, expected_state))


@pytest.mark.core
@pytest.mark.parametrize("kernel", rf.kernels())
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(
    "hyper",
    [
        {},
        {"lr": "arrays", "momentum": 0.9, "nesterov": True, "weight_decay": 0.3},
        {"bias_correction": True, "clip_norm": 2.0},
        {"bias_correction": True, "clip_global_norm": 3.0, "skip_nonfinite": True},
        {"lr": "arrays", "momentum": 0.9, "clip_global_norm": 3.0, "decoupled": True, "weight_decay": 0.3},
    ],
    ids=repr,
)
def test_leaves_without_a_gradient(kernel: str, threads: int, centered: bool, hyper: dict[str, Any]) -> None:
    """They stay as they are, and the others do as if they were alone; by the kernel and by the reference."""
    rf.set_kernel(kernel)
    rf.set_num_threads(threads)
    _core._set_share(0)
    hyper = {"lr": 0.01, **hyper, "centered": centered}
    random = np.random.default_rng(5)
    states, trees = [], []
    for _ in range(2):
        trees.append([p.copy() for p in PROBLEM.params])
        states.append(PROBLEM.init(trees[-1], hyper))
    for missing in ([], [0], [1, 2, 4], [5], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5], [3], []):
        grads: list[Any] = [random.standard_normal(size).astype(g) for size, (_, g) in zip(SIZES, TYPES, strict=True)]
        there = [i for i in range(len(SIZES)) if i not in missing]
        # What the others do by themselves.
        alone = [trees[0][i].copy() for i in there]
        rates = [PROBLEM.lr[i] for i in there] if hyper["lr"] == "arrays" else hyper["lr"]
        state_alone = rf.init(alone, **{**hyper, "lr": rates})
        for name in ("variance", "grad_avg", "momentum_buffer") if centered else ("s", "momentum_buffer"):
            if (kept := getattr(states[0], name)) is not None:
                setattr(state_alone, name, [kept[i] for i in there])
        state_alone.steps = states[0].steps
        rf.step(alone, [grads[i] for i in there], state_alone)
        want = [array.copy() for array in everything(trees[0], states[0])]
        for position, array in enumerate(everything(alone, state_alone)):
            want[position // len(there) * len(SIZES) + there[position % len(there)]] = array

        for i in missing:
            grads[i] = None
        for step, params, state in zip((rf.step, rf.reference.step), trees, states, strict=True):
            step(params, grads, state)
            assert all(same_bits(a, b) for a, b in zip(everything(params, state), want, strict=True))
            assert (state.steps, state.grad_norm) == (state_alone.steps, state_alone.grad_norm)


@pytest.mark.core
def test_norms_are_summed_in_memory_order_level_by_level() -> None:
    random = np.random.default_rng(2)
    shape = (30, 40, 50)
    params: Any = {"a": [random.standard_normal(shape).transpose(2, 0, 1)], "b": random.standard_normal(7)}
    grads: Any = {"b": random.standard_normal(7) * 1e3, "a": [random.standard_normal(shape).transpose(2, 0, 1)]}
    expected: Any = {"b": params["b"].copy(), "a": [params["a"][0].copy(order="K")]}
    state, expected_state = rf.init(params, clip_global_norm=1), rf.init(expected, clip_global_norm=1)
    rf.step(params, grads, state)
    rf.reference.step(expected, grads, expected_state)
    assert state.grad_norm == expected_state.grad_norm
    assert same_bits(params["a"][0], expected["a"][0])
    assert same_bits(params["b"], expected["b"])


@pytest.mark.core
@pytest.mark.parametrize("kernel", rf.kernels())
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_every_half_is_loaded_right(kernel: str, dtype: Any) -> None:
    """As gradients of float32 parameters: with rho = s = lr = 1 each is subtracted as it is, or scaled down."""
    rf.set_kernel(kernel)
    g = np.arange(2**16, dtype=np.uint16).view(dtype)
    for scale in (1, 2.0**70):  # where squares do not overflow
        p = np.zeros(g.size, np.float32)
        rf.step(p, g, rf.init(p, rho=1, initial_s=1, eps=0, lr=1, grad_scale=scale))
        with np.errstate(all="ignore"):
            numbers = g.astype(np.float32) * np.float32(1 / scale)
            mean = 1 + 0 * (numbers * numbers)  # NaN where the square overflows
            assert same_bits(p, 0 - 1 / np.sqrt(mean) * numbers)


@pytest.mark.core
@pytest.mark.parametrize("kernel", rf.kernels())
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_halves_are_rounded_to_the_nearest_even(kernel: str, dtype: Any) -> None:
    """Steps of any float32 number, as learning rate: around every half, around every tie, and at random."""
    rf.set_kernel(kernel)
    halves = np.arange(2**15, dtype=np.uint16).view(dtype).astype(np.float32)
    halves = halves[np.isfinite(halves)]
    ties = np.append(halves[:-1] / 2 + halves[1:] / 2, halves[-1] + (halves[-1] - halves[-2]) / 2)
    around = [
        np.nextafter(x, way, dtype=np.float32) for x in (halves, ties) for way in (np.float32(0), np.float32(1e38))
    ]
    bits = np.random.default_rng(3).integers(0, 0x7F800000, 2**16, dtype=np.uint32)
    numbers = np.concatenate([halves, ties, *around, bits.view(np.float32)])
    numbers = numbers[np.isfinite(numbers)]
    for sign in (1, -1):
        p = np.zeros(numbers.size, dtype)
        g = np.full(numbers.size, -sign, dtype)
        rf.step(p, g, rf.init(p, rho=1, initial_s=1, eps=0, lr=numbers))
        with np.errstate(over="ignore", under="ignore"):
            assert same_bits(p, (0 + sign * numbers).astype(dtype))


@pytest.mark.core
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_state_of_halves_is_float32(dtype: Any) -> None:
    """In half precision, s would stop growing at 0.25 (rho = 0.999, g = 1), and eps = 1e-8 would be 0."""
    p = np.ones(3, dtype)
    state = rf.init(p, momentum=0.9)
    assert state.s.dtype == state.momentum_buffer.dtype == np.float32
    rf.step(p, np.zeros(3, dtype), state)
    assert np.all(p == 1)
    for _ in range(3000):
        rf.step(p, np.ones(3, dtype), state)
    assert state.s[0] == pytest.approx(1 - 0.999**3000, rel=1e-4)


@pytest.mark.core
def test_centered_variance_never_turns_negative() -> None:
    """A constant gradient for long: s - m**2 is rounding errors, of either sign."""
    p = np.zeros(100, np.float32)
    g = np.random.default_rng(4).uniform(0.1, 10, 100).astype(np.float32)
    state = rf.init(p, centered=True, rho=0.99, lr=1e-6)
    for _ in range(5000):
        rf.step(p, g, state)
    assert np.all(state.variance >= 0)
    assert np.all(np.isfinite(p))
    np.testing.assert_allclose(state.s, g * g, rtol=5e-5)  # means stall within 100 roundings of their limit
    np.testing.assert_array_equal(state.s, state.variance + state.grad_avg * state.grad_avg)


@pytest.mark.core
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, BFLOAT16], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, "square"])
@pytest.mark.parametrize("place", [0, 5000, 9999])
def test_a_skipped_step_changes_nothing(dtype: Any, bad: Any, place: int) -> None:
    params = [np.ones(10_000, dtype), np.ones(3)]
    grads = [np.ones(10_000, dtype), np.ones(3)]
    state = rf.init(params, skip_nonfinite=True, momentum=0.9, centered=True)
    rf.step(params, grads, state)
    before = [array.tobytes() for array in everything(params, state)]
    if bad == "square":  # one that overflows; in float16 no number has one
        bad = {"float64": 2e154}.get(np.dtype(dtype).name, 2e19)
    with np.errstate(over="ignore"):
        grads[0][place] = bad
    rf.step(params, grads, state)
    assert [array.tobytes() for array in everything(params, state)] == before
    assert (state.steps, state.skipped) == (1, 1)
    grads[0][place] = 1
    rf.step(params, grads, state)
    assert (state.steps, state.skipped) == (2, 1)


@pytest.mark.core
@pytest.mark.parametrize("step", [rf.step, rf.reference.step])
@pytest.mark.parametrize(("dtype", "large"), [(np.float32, 2e19), (np.float64, 2e154)], ids=["float32", "float64"])
@pytest.mark.parametrize(
    "hyper",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"bias_correction": True}, {"centered": True}],
    ids=repr,
)
def test_a_square_that_overflows_stops_its_parameter(
    step: Any, dtype: Any, large: float, hyper: dict[str, Any]
) -> None:
    """Until the mean is assigned; but not if the step is skipped, or the gradient clipped."""
    mean = "variance" if hyper.get("centered") else "s"
    spike, ordinary = np.array([large, 1], dtype), np.ones(2, dtype)
    p = np.ones(2, dtype)
    state = rf.init(p, **hyper)
    for g in (spike, ordinary, ordinary, ordinary):
        step(p, g, state)
        assert getattr(state, mean)[0] == np.inf
        assert p[0] == 1
        assert p[1] < 1
    setattr(state, mean, np.ones(2))
    if state.centered:
        state.grad_avg = np.zeros(2)
    step(p, ordinary, state)
    assert p[0] < 1

    remedies: list[dict[str, Any]] = [
        {"skip_nonfinite": True},
        {"clip_value": 1e18},
        {"clip_norm": 1.0},
        {"clip_global_norm": 1.0},
    ]
    for remedy in remedies:
        p = np.ones(2, dtype)
        state = rf.init(p, **hyper, **remedy)
        for g in (spike, ordinary):
            step(p, g, state)
        assert np.isfinite(getattr(state, mean)).all()
        assert p[0] < 1


@pytest.mark.core
def test_what_is_finite_is_judged_after_the_multiplier() -> None:
    p, g = np.zeros(9, np.float32), np.full(9, 1e30, np.float32)
    for fine in ({"grad_scale": 1e20}, {"clip_norm": 1}, {"clip_global_norm": 1}):
        state = rf.init(p, skip_nonfinite=True, **fine)
        rf.step(p, g, state)
        assert (state.steps, state.skipped) == (1, 0)
    state = rf.init(p, skip_nonfinite=True, grad_scale=1e-20)
    rf.step(p, np.ones(9, np.float32), state)
    assert state.skipped == 1
    p64, g64 = np.zeros(9), np.full(9, 1e200)  # whose norm overflows
    state = rf.init(p64, skip_nonfinite=True, clip_global_norm=1)
    rf.step(p64, g64, state)
    assert (state.steps, state.skipped, state.grad_norm) == (0, 1, math.inf)
    for step in (rf.step, rf.reference.step):
        rows: list[tuple[dict[str, Any], int]] = [
            ({"grad_scale": 1e200}, 0),
            ({"grad_scale": 1e300, "clip_norm": 1e-250}, 1),  # the norm overflows
            ({"grad_scale": 1e-100, "clip_norm": 1e-250}, 1),
            ({"grad_scale": 1e100, "clip_norm": 1e-250}, 1),
        ]
        for hyper, skipped in rows:
            state = rf.init(p64, skip_nonfinite=True, **hyper)
            step(p64, g64, state)
            assert (state.steps, state.skipped) == (1 - skipped, skipped)
        state = rf.init(p64, skip_nonfinite=True, grad_scale=1e300, clip_norm=1e-250)
        step(p64, np.full(9, 1e100), state)  # the norm is finite, the multiplier is 0
        assert (state.steps, state.skipped) == (1, 0)


@pytest.mark.core
def test_grad_norm_is_that_of_the_last_step_that_needed_it() -> None:
    p, g = [np.zeros(2), np.zeros(1)], [np.array([2.0, 3.0]), np.array([6.0])]
    state = rf.init(p)
    rf.step(p, g, state)
    assert state.grad_norm is None
    for option, value in (("clip_norm", 1.0), ("clip_global_norm", 100.0), ("skip_nonfinite", True)):
        setattr(state, option, value)
        state.grad_scale = 2
        rf.step(p, g, state)
        assert state.grad_norm == 3.5
        setattr(state, option, False if value is True else None)
        rf.step(p, g, state)
        assert state.grad_norm is None
