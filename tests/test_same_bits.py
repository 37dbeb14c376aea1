"""Promise 1: for every kernel, thread count, length, alignment and value the bytes are those of the reference."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import platform
import sys
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import rmsprop_fast as rf
from bits import Array, Embedded, extremes, hard_values, same_bits
from rmsprop_fast import _core

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.core

both_types = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_kernel = pytest.mark.parametrize("kernel", rf.kernels())
each_thread_count = pytest.mark.parametrize("threads", [1, 2, 3, 7])


def use(kernel: str, threads: int) -> None:
    rf.set_kernel(kernel)
    rf.set_num_threads(threads)
    _core._set_share(0)  # threads even for the smallest work


def check(params: Array, grads: list[Array], s: Array, *, offset: int = 0, **hyper: Any) -> None:
    """Take one step per gradient with kernel and reference, from the same start, and compare all that was written."""
    p, expected = Embedded(params, offset), params.copy()
    state, expected_state = rf.init(p.values, **hyper), rf.init(expected, **hyper)
    for each in (state, expected_state):
        each.s[...] = s
    for g in grads:
        rf.step(p.values, Embedded(g, offset * 3 % 16).values, state)
        rf.reference.step(expected, g, expected_state)
        assert same_bits(p.values, expected)
        assert same_bits(state.s, expected_state.s)
        assert p.is_intact_around()
    assert state.steps == expected_state.steps == len(grads)


@both_types
@each_kernel
@each_thread_count
def test_every_short_length_and_alignment(dtype: Any, kernel: str, threads: int) -> None:
    use(kernel, threads)
    random = np.random.default_rng(1)
    for size in range(131):
        params, s = hard_values(random, size, dtype), abs(hard_values(random, size, dtype))
        grads = [hard_values(random, size, dtype) for _ in range(2)]
        check(params, grads, s, offset=size % 16, lr=0.01, rho=0.9, eps=1e-8)


@both_types
@each_kernel
@each_thread_count
@pytest.mark.parametrize("size", [30_011, 200_003])
def test_long_odd_lengths(dtype: Any, kernel: str, threads: int, size: int) -> None:
    use(kernel, threads)
    random = np.random.default_rng(2)
    grads = [random.standard_normal(size).astype(dtype) for _ in range(2)]
    check(hard_values(random, size, dtype), grads, abs(hard_values(random, size, dtype)), offset=3)


BFLOAT16: Any = np.dtype(ml_dtypes.bfloat16)


@each_kernel
@each_thread_count
@pytest.mark.parametrize("p_type", [np.float32, np.float16, BFLOAT16], ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("g_type", [np.float32, np.float16, BFLOAT16], ids=lambda dtype: np.dtype(dtype).name)
def test_parameters_and_gradients_of_different_types(p_type: Any, g_type: Any, kernel: str, threads: int) -> None:
    """With one tile, several, and parts of one."""
    use(kernel, threads)
    random = np.random.default_rng(7)
    for number, size in enumerate([1, 7, 31, 127, 128, 129, 256, 383, 641, 1000, 5003]):
        params, s = hard_values(random, size, p_type), abs(hard_values(random, size, np.float32))
        grads = [hard_values(random, size, g_type) for _ in range(2)]
        check(params, grads, s, offset=number, lr=0.01, rho=0.9, eps=1e-8)


@both_types
@each_kernel
def test_every_pair_of_extremes(dtype: Any, kernel: str) -> None:
    use(kernel, 1)
    values = extremes(dtype)
    g, s = (axis.ravel() for axis in np.meshgrid(values, values))
    for eps in (0.0, 1e-8, 1.0):
        check(np.ones_like(g), [g], s, eps=eps)


@both_types
@each_kernel
@each_thread_count
def test_learning_rates_of_each_element(dtype: Any, kernel: str, threads: int) -> None:
    use(kernel, threads)
    random = np.random.default_rng(3)
    for size in (1, 17, 130, 5001):
        lr = random.uniform(0, 1, size)  # float64: rounded once, when assigned
        grads = [hard_values(random, size, dtype)]
        check(hard_values(random, size, dtype), grads, abs(hard_values(random, size, dtype)), lr=lr)


@each_kernel
@each_thread_count
def test_chunks_that_cut_across_leaves(kernel: str, threads: int) -> None:
    use(kernel, threads)
    random = np.random.default_rng(4)
    sizes = [0, 1, 100, 0, 3, 257, 64, 1, 31]

    def tree(make: Any) -> list[Array]:
        return [make(size).astype(np.float64 if index % 2 else np.float32) for index, size in enumerate(sizes)]

    params, grads = tree(random.standard_normal), tree(random.standard_normal)
    lr = [0.1 if index % 3 else random.uniform(0, 1, size) for index, size in enumerate(sizes)]
    expected = [p.copy() for p in params]
    state, expected_state = rf.init(params, lr=lr), rf.init(expected, lr=lr)
    for _ in range(3):
        rf.step(params, grads, state)
        rf.reference.step(expected, grads, expected_state)
    for got, want in zip([*params, *state.s], [*expected, *expected_state.s], strict=True):
        assert same_bits(got, want)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    dtype=st.sampled_from([np.float32, np.float64]),
    kernel=st.sampled_from(rf.kernels()),
    threads=st.integers(1, 8),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12),
    lr=st.floats(0, 1e30),
    rho=st.floats(0, 1),
    eps=st.floats(0, 1e30),
)
def test_anything(
    data: st.DataObject,
    dtype: Any,
    kernel: str,
    threads: int,
    shape: tuple[int, ...],
    lr: float,
    rho: float,
    eps: float,
) -> None:
    use(kernel, threads)
    p, g, s = (data.draw(hnp.arrays(dtype, shape), label=name) for name in "pgs")
    order = data.draw(st.permutations(range(len(shape))), label="axes")
    p, g, s = (array.transpose(order) for array in (p, g, s))
    expected = p.copy(order="K")
    state, expected_state = rf.init(p, lr=lr, rho=rho, eps=eps), rf.init(expected, lr=lr, rho=rho, eps=eps)
    for each in (state, expected_state):
        each.s[...] = s
    rf.step(p, g, state)
    rf.reference.step(expected, g, expected_state)
    assert same_bits(p, expected)
    assert same_bits(state.s, expected_state.s)


@pytest.mark.parametrize("order", ["C", "F", "transposed"])
def test_any_dense_memory_order(order: Any) -> None:
    shape = (5, 1, 7, 3)
    random = np.random.default_rng(5)

    def make() -> Array:
        values = random.standard_normal(shape)
        return (
            values.transpose(2, 0, 3, 1).copy().transpose(1, 3, 0, 2) if order == "transposed" else values.copy(order)
        )

    p, g = make(), make()
    expected = p.copy(order="K")
    state, expected_state = rf.init(p), rf.init(expected)
    assert state.s.strides == p.strides
    rf.step(p, g, state)
    rf.reference.step(expected, g, expected_state)
    assert same_bits(p, expected)


def test_strides_of_axes_of_length_one_do_not_count() -> None:
    p = np.ones((4, 1, 3))
    g = np.lib.stride_tricks.as_strided(np.ones(12), (4, 1, 3), (24, 8000, 8))
    expected = p.copy()
    rf.step(p, g, rf.init(p))
    rf.reference.step(expected, g, rf.init(expected))
    assert same_bits(p, expected)


# Upward, downward and toward zero, as fenv.h of Linux has them.
MODES: dict[str, list[int]] = {"x86_64": [0x800, 0x400, 0xC00], "aarch64": [0x400000, 0x800000, 0xC00000]}
ROUNDING_MODES = MODES.get(platform.machine(), []) if sys.platform == "linux" else []
has_modes = pytest.mark.skipif(not ROUNDING_MODES, reason="the values of fenv.h's macros are those of Linux")


@contextlib.contextmanager
def rounding(mode: int) -> Iterator[None]:
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    libm.fesetround(mode)
    try:
        yield
        mode_after = libm.fegetround()
    finally:
        libm.fesetround(0)
    assert mode_after == mode


@has_modes
@each_thread_count
def test_threads_take_the_rounding_mode_of_the_caller(threads: int) -> None:
    """The pool's threads have a mode of their own; with it, the bits would depend on the thread count."""
    use(rf.get_kernel(), threads)
    random = np.random.default_rng(6)
    p, g = random.standard_normal((2, 200_000)).astype(np.float32)
    nearest, expected = p.copy(), p.copy()
    rf.step(nearest, g, rf.init(nearest))
    state, expected_state = rf.init(p), rf.init(expected)
    with rounding(ROUNDING_MODES[0]):
        rf.step(p, g, state)
        rf.reference.step(expected, g, expected_state)
    assert same_bits(p, expected)
    assert not same_bits(p, nearest)


@has_modes
@each_kernel
@pytest.mark.parametrize("mode", [0, *ROUNDING_MODES], ids=hex)
def test_float16_is_stored_to_the_nearest_in_any_rounding_mode(kernel: str, mode: int) -> None:
    """As NumPy does it. With every float16, the subnormal ones too, and moves that end between two of them."""
    rf.set_kernel(kernel)
    p = np.arange(2**16, dtype=np.uint16).view(np.float16)
    expected = p.copy()
    with np.errstate(invalid="ignore"):
        g = (p * np.float16(0.37)).copy()
    state, expected_state = (rf.init(params, lr=3e-5, eps=1e-7, initial_s=1) for params in (p, expected))
    with rounding(mode):
        for _ in range(3):
            rf.step(p, g, state)
            rf.reference.step(expected, g, expected_state)
    assert same_bits(p, expected)
    assert same_bits(state.s, expected_state.s)
