"""Sparse gradients: rows, and stored elements, are stepped as by the reference, byte for byte, and others are not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import rmsprop_fast as rf
from bits import same_bits
from marks import linux

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
LAZY = ("rows", "dense", "catch_up")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "eps inside, decoupled, maximize": {
        "eps_inside_sqrt": True,
        "weight_decay": 0.1,
        "decoupled": True,
        "maximize": True,
    },
    "momentum": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "centered": {"centered": True, "momentum": 0.5},
    "bias_correction": {"bias_correction": True},
    "clip_value": {"clip_value": 0.5, "grad_scale": 2.0},
    "clip_norm": {"clip_norm": 0.5},
    "clip_global_norm": {"clip_global_norm": 0.5, "skip_nonfinite": True, "eps_inside_sqrt": True},
}


REFUSED = {
    "catch_up": {"momentum", "centered", "weight_decay", "bias_correction"},
    "rowwise": {"centered"},
}


def is_possible(lazy: str, rowwise: bool, options: dict[str, Any]) -> bool:
    refused = REFUSED.get(lazy, set()) | (REFUSED["rowwise"] if rowwise else set())
    return not refused & options.keys()


def random_rows(random: np.random.Generator, shape: tuple[int, ...], count: Any, dtype: Any) -> rf.Rows:
    rows = random.integers(0, shape[0], count).astype(np.int32 if random.random() < 0.5 else np.int64)
    return rf.Rows(rows, random.standard_normal((count, *shape[1:])).astype(dtype))


def copied(tree: Any) -> Any:
    return {name: array.copy(order="K") for name, array in tree.items()}


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
                if trees[0] is not None and params[name].size:
                    np.testing.assert_array_equal(trees[0][name], trees[1][name])


@pytest.mark.parametrize("lazy", LAZY)
@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_rows_are_stepped_as_by_the_reference(lazy: str, rowwise: bool, dtype: Any, options: dict[str, Any]) -> None:
    if not is_possible(lazy, rowwise, options):
        refused = "momentum|centered|weight_decay|bias_correction"
        with pytest.raises(ValueError, match=rf"^({refused}): expected .* with (lazy='catch_up'|rowwise=True), got"):
            rf.init(np.zeros(2), lazy=lazy, rowwise=rowwise, **options)
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
    if "clip_value" in options:  # and a learning rate for each element
        options = options | {"lr": {name: 0.1 + 0.05 * (np.abs(p.astype(float)) > 1) for name, p in params.items()}}
    assert_steps_are_those_of_the_reference(
        params, gradients, **{"lr": 0.1, "rho": 0.9, "lazy": lazy, "rowwise": rowwise} | options
    )


@pytest.mark.core
@pytest.mark.parametrize("lazy", LAZY)
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_any_rows(lazy: str, data: st.DataObject) -> None:
    """With 2 and 7 threads, which take pieces of few elements, and the kernels of every instruction set."""
    shape = data.draw(st.sampled_from([(1,), (3, 1), (5, 200), (40, 33), (200, 3), (2, 3, 5), (4, 0), (0, 3)]))
    dtype = data.draw(st.sampled_from(DTYPES))
    rowwise = data.draw(st.booleans())
    names = [name for name, options in OPTIONS.items() if is_possible(lazy, rowwise, options)]
    options = OPTIONS[data.draw(st.sampled_from(names))]
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    params = {"w": random.standard_normal(shape).astype(dtype)}
    counts = data.draw(st.lists(st.integers(0, 60 if shape[0] else 0), min_size=1, max_size=4))
    gradients: list[dict[str, Any]] = [{"w": random_rows(random, shape, count, dtype)} for count in counts]
    gradients.insert(data.draw(st.integers(0, len(counts))), {"w": random.standard_normal(shape).astype(dtype)})
    before = rf.get_kernel(), rf._core._share()
    try:
        rf.set_kernel(data.draw(st.sampled_from(rf.kernels())))
        rf.set_num_threads(data.draw(st.sampled_from([1, 2, 7])))
        rf._core._set_share(data.draw(st.sampled_from([1, 300, before[1]])))
        assert_steps_are_those_of_the_reference(params, gradients, lazy=lazy, rowwise=rowwise, rho=0.8, **options)
    finally:
        rf.set_kernel(before[0])
        rf.set_num_threads(None)
        rf._core._set_share(before[1])


@pytest.mark.core
@pytest.mark.parametrize("lazy", ["rows", "dense"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stored_elements_are_stepped_as_by_the_reference(lazy: str, order: Any, form: str, dtype: Any) -> None:
    random = np.random.default_rng(0)
    shape = 30, 20
    params = {"w": np.asarray(random.standard_normal(shape), dtype, order=order), "b": np.ones(3, dtype)}
    gradients = []
    for _ in range(4):
        rows, columns = random.integers(0, 30, 50), random.integers(0, 20, 50)  # COO: some twice
        g = scipy.sparse.coo_array((random.standard_normal(50).astype(dtype), (rows, columns)), shape)
        gradients.append({"w": g.asformat(form), "b": np.ones(3, dtype)})
    for options in OPTIONS.values():
        assert_steps_are_those_of_the_reference(copied(params), gradients, lazy=lazy, **options)


def test_other_rows_stay_as_they_are() -> None:
    random = np.random.default_rng(0)
    p = random.standard_normal((10, 3))
    before = p.copy()
    state = rf.init(p, momentum=0.9, weight_decay=0.1)
    rf.step(p, rf.Rows(np.array([7, 2, 7]), np.ones((3, 3))), state)
    others = [0, 1, 3, 4, 5, 6, 8, 9]
    np.testing.assert_array_equal(p[others], before[others])
    assert not state.s[others].any()
    assert (p[[2, 7]] != before[[2, 7]]).all()
    np.testing.assert_allclose(state.s[[2, 7]], 0.001 * (np.array([[1], [2]]) + 0.1 * before[[2, 7]]) ** 2, rtol=1e-12)


def test_dense_is_a_step_with_zeros() -> None:
    random = np.random.default_rng(0)
    p = random.standard_normal((20, 5)).astype(np.float32)
    expected = p.copy()
    options: dict[str, Any] = {"momentum": 0.9, "centered": True, "weight_decay": 0.1}
    state, dense = rf.init(p, lazy="dense", **options), rf.init(expected, **options)
    for _ in range(20):
        rows = random.permutation(20)[:4]
        values = random.standard_normal((4, 5)).astype(np.float32)
        g = np.zeros_like(p)
        g[rows] = values
        rf.step(p, rf.Rows(rows, values), state)
        rf.step(expected, g, dense)
        assert same_bits(p, expected)
        assert same_bits(state.variance, dense.variance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rowwise", [False, True])
def test_catch_up_is_dense_but_for_rounding(dtype: Any, rowwise: bool) -> None:
    """1,000 steps, in which rho changes, and some gradients are dense, or None."""
    random = np.random.default_rng(0)
    p = random.standard_normal((30, 4)).astype(dtype)
    expected = p.copy()
    state, dense = (
        rf.init(params, lazy=lazy, rho=0.99, rowwise=rowwise) for params, lazy in ((p, "catch_up"), (expected, "dense"))
    )
    for t in range(1000):
        grads: Any = random_rows(random, (30, 4), random.integers(0, 5), dtype)
        if t % 100 == 50:
            grads = random.standard_normal((30, 4)).astype(dtype)
        if t % 100 == 60:
            grads = None
        for state_, params in ((state, p), (dense, expected)):
            if t % 250 == 200:
                state_.rho = 0.9 + t / 20_000
            rf.step(params, grads, state_)
    state.catch_up()
    few = 200 * np.finfo(dtype).eps
    np.testing.assert_allclose(state.s, dense.s, rtol=few)
    np.testing.assert_allclose(p, expected, rtol=few, atol=few)


def test_rowwise_by_hand() -> None:
    p = np.zeros((2, 4))
    state = rf.init(p, lr=0.1, rho=0.75, eps=0, rowwise=True)
    assert state.rowwise
    assert state.s.shape == (2, 1)
    rf.step(p, rf.Rows(np.array([1]), np.array([[2.0, 4.0, 4.0, 8.0]])), state)
    assert state.s.tolist() == [[0], [0.25 * (4 + 16 + 16 + 64) / 4]]  # 6.25, of which the root is 2.5
    np.testing.assert_allclose(p, [[0.0] * 4, [-0.08, -0.16, -0.16, -0.32]], rtol=1e-15)
    rf.step(p, np.array([[3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]]), state)
    assert state.s.tolist() == [[0.25 * 9], [0.75 * 6.25]]
    np.testing.assert_allclose(p[0], -0.2, rtol=1e-15)


@pytest.mark.parametrize("shape", [(30,), ()])
def test_with_one_axis_or_none_rowwise_makes_no_difference(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    p = np.asarray(random.standard_normal(shape), np.float32)
    expected = p.copy()
    states = rf.init(p, rowwise=True, momentum=0.9), rf.init(expected, momentum=0.9)
    for _ in range(3):
        g = np.asarray(random.standard_normal(shape), np.float32)
        rf.step(p, g, states[0])
        rf.step(expected, g, states[1])
        assert same_bits(p, expected)
        assert same_bits(states[0].s, states[1].s)


def test_rowwise_in_other_memory_orders() -> None:
    """Inner axes in any order, by which the squares of a row are summed up; and the first one must be the outermost."""
    random = np.random.default_rng(0)
    p = random.standard_normal((4, 30, 5)).transpose(0, 2, 1)
    params = {"w": np.ascontiguousarray(p.transpose(0, 2, 1)).transpose(0, 2, 1)}
    rows = rf.Rows(np.array([3, 0, 3]), random.standard_normal((3, 30, 5)).transpose(0, 2, 1))
    gradients: list[dict[str, Any]] = [{"w": random.standard_normal((4, 30, 5)).transpose(0, 2, 1)}, {"w": rows}]
    assert_steps_are_those_of_the_reference(params, gradients, rowwise=True, rho=0.5, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"^params\['w'\]: expected a first axis that is the outermost in memory with"):
        rf.init({"w": np.asfortranarray(np.ones((3, 2)))}, rowwise=True)


def test_what_rowwise_refuses() -> None:
    p = np.ones((4, 3))
    state = rf.init(p, rowwise=True)
    with pytest.raises(TypeError, match="grads: expected Rows or a dense array with rowwise=True, got a sparse matrix"):
        rf.step(p, scipy.sparse.csr_array(p), state)
    with pytest.raises(
        ValueError, match=r"state\.s: expected real numbers of shape \(4, 1\), got float64 of shape \(4, 3\)"
    ):
        state.s = np.ones((4, 3))
    state.s = np.full((4, 1), 0.5)
    assert state.s.tolist() == [[0.5]] * 4
    assert (p == 1).all()


def test_rowwise_arrays_may_not_overlap() -> None:
    memory = np.zeros(20)
    params = {"a": memory[4:16].reshape(4, 3), "b": np.ones(2)}
    state = rf.init(params, rowwise=True)
    state_of_b = np.ndarray(2, buffer=state.s["b"])
    with pytest.raises(ValueError, match=r"overlaps the memory of "):
        rf.step({"a": params["a"], "b": state_of_b}, {"a": None, "b": np.ones(2)}, state)
    with pytest.raises(ValueError, match=r"params\['a'\]: overlaps the memory of grads\['b'\]"):
        rf.step(params, {"a": np.ones((4, 3)), "b": memory[15:17]}, state)
    rf.step(params, {"a": np.ones((4, 3)), "b": memory[16:18]}, state)


def test_rows_of_a_long_table_are_sorted() -> None:
    """By all the digits of their numbers."""
    random = np.random.default_rng(0)
    params = {"w": np.zeros(5_000_000, np.float32)}
    gradients = [{"w": random_rows(random, (5_000_000,), 3000, np.float32)} for _ in range(2)]
    assert_steps_are_those_of_the_reference(params, gradients, lazy="rows", clip_norm=0.5)


def test_a_step_without_rows_on_several_threads_ends() -> None:
    """Nothing is to be summed up for the norm, but the table is to be updated."""
    code = """if True:
        import numpy as np, rmsprop_fast as rf
        p = np.ones((1000, 8))
        state = rf.init(p, lazy="dense", clip_norm=1.0, initial_s=1.0, rho=0.5)
        rf.set_num_threads(2)
        rf._core._set_share(1)
        for _ in range(100):
            rf.step(p, rf.Rows(np.zeros(0, np.int64), np.zeros((0, 8))), state)
        assert (state.s == 0.5**100).all() and state.grad_norm == 0
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_s_of_a_row_is_that_of_its_last_step_until_it_catches_up() -> None:
    p = np.ones((2, 3))
    state = rf.init(p, lazy="catch_up", rho=0.5)
    both, one = rf.Rows(np.array([0, 1]), np.ones((2, 3))), rf.Rows(np.array([1]), np.ones((1, 3)))
    rf.step(p, both, state)
    rf.step(p, one, state)
    rf.step(p, one, state)
    assert state.s.tolist() == [[0.5] * 3, [0.875] * 3]
    state.catch_up()
    assert state.s.tolist() == [[0.125] * 3, [0.875] * 3]
    state.catch_up()
    assert state.s.tolist() == [[0.125] * 3, [0.875] * 3]
    rf.step(p, one, state)
    state.s = np.full((2, 3), 0.25)  # what is restored is up to date
    rf.step(p, both, state)
    assert state.s.tolist() == [[0.625] * 3, [0.625] * 3]


def test_a_skipped_step_is_not_missed() -> None:
    p = np.ones((2, 3))
    state = rf.init(p, lazy="catch_up", rho=0.5, skip_nonfinite=True, initial_s=1.0)
    rf.step(p, rf.Rows(np.array([0]), np.full((1, 3), np.inf)), state)
    assert (state.steps, state.skipped) == (0, 1)
    rf.step(p, rf.Rows(np.array([0]), np.zeros((1, 3))), state)
    state.catch_up()
    assert state.s.tolist() == [[0.5] * 3, [0.5] * 3]


W = np.ones((4, 3), np.float32)
VALUES = np.ones((2, 3), np.float32)


def csr(indices: list[int], indptr: list[int]) -> Any:
    matrix = scipy.sparse.csr_array(W)
    matrix.indices, matrix.indptr = np.array(indices, np.int32), np.array(indptr, np.int32)
    matrix.data = np.ones(len(indices), np.float32)
    return matrix


@pytest.mark.core
@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (rf.Rows(np.array([0, 4]), VALUES), r"grads['w'].rows[1]: expected a number from 0 to 3, got 4"),
        (rf.Rows(np.array([-1, 0]), VALUES), r"grads['w'].rows[0]: expected a number from 0 to 3, got -1"),
        (rf.Rows(np.array([0.0, 1.0]), VALUES), "grads['w'].rows: expected int32 or int64, got float64 of shape (2,)"),
        (rf.Rows(np.array([0, 1], np.uint64), VALUES), "grads['w'].rows: expected int32 or int64, got uint64"),
        (rf.Rows(np.array([0, 1], ">i8"), VALUES), "grads['w'].rows: expected int32 or int64, got >i8 of shape (2,)"),
        (rf.Rows(np.array([[0, 1]]), VALUES), "grads['w'].rows: expected one axis, got int64 of shape (1, 2)"),
        (
            rf.Rows(np.array([0, 1, 2]), VALUES),
            "grads['w']: expected float32 of shape (3, 3), got float32",
        ),
        (
            rf.Rows(np.array([0, 1]), VALUES[:, :2]),
            "grads['w']: expected float32 of shape (2, 3), got float32",
        ),
        (
            rf.Rows(np.array([0, 1]), VALUES.astype(float)),
            "grads['w']: expected float32 or float16 or",
        ),
        (rf.Rows(np.array([0, 1]), np.asfortranarray(VALUES)), "grads['w']: expected strides (12, 4)"),
        (scipy.sparse.csr_array((3, 4), dtype=np.float32), "grads['w']: expected shape (4, 3), got (3, 4)"),
        (
            scipy.sparse.csr_array((4, 3)),
            "grads['w']: expected float32 or float16 or bfloat16 of",
        ),
        (scipy.sparse.lil_array((4, 3), dtype=np.float32), "grads['w']: expected a sparse matrix in CSR, CSC or COO"),
        (
            csr([1, 0], [0, 2, 2, 2, 2]),
            "grads['w']: expected sorted indices without duplicates",
        ),
        (
            csr([1, 1], [0, 2, 2, 2, 2]),
            "grads['w']: expected sorted indices without duplicates",
        ),
        (csr([0, 3], [0, 2, 2, 2, 2]), "grads['w'].indices[1]: expected a number from 0 to 2, got 3"),
        (csr([0, 1], [0, 2, 1, 2, 2]), "grads['w'].indptr[2]: expected a number from 2 to 2, got 1"),
        (csr([0, 1], [0, 1, 1, 1, 1]), "grads['w'].indptr[4]: expected a number from 2 to 2, got 1"),
        (csr([0, 1], [1, 2, 2, 2, 2]), "grads['w'].indptr[0]: expected a number from 0 to 0, got 1"),
        (csr([0, 1], [0, 2, 2]), "grads['w'].indptr: expected 5 numbers, got 3"),
    ],
)
def test_what_is_refused(gradient: Any, message: str) -> None:
    params: dict[str, Any] = {"b": np.ones(2), "w": W.copy()}
    state = rf.init(params)
    with pytest.raises((TypeError, ValueError), match=r".") as caught:
        rf.step(params, {"b": np.ones(2), "w": gradient}, state)
    assert str(caught.value).startswith(message)
    assert (params["b"] == 1).all()
    assert (params["w"] == 1).all()
    assert not state.s["b"].any()
    assert state.steps == 0
    rf.step(params, {"b": np.ones(2), "w": rf.Rows(np.array([1]), VALUES[:1])}, state)
    assert (params["w"][[0, 2, 3]] == 1).all()


def test_what_else_is_refused() -> None:
    with pytest.raises(TypeError, match="Rows: expected an array as rows, got list"):
        rf.Rows([0, 1], VALUES)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Rows: expected an array as values, got float"):
        rf.Rows(np.array([0]), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"grads: expected a number or an array without axes, got Rows"):
        rf.step(np.array(1.0), rf.Rows(np.array([0]), np.ones(1)), rf.init(np.array(1.0)))
    p = np.asfortranarray(np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"grads: expected a parameter whose first axis is the outermost in memory"):
        rf.step(p, rf.Rows(np.array([0]), np.ones((1, 3))), rf.init(p))
    p = np.ones((4, 3))
    with pytest.raises(TypeError, match=r"grads: expected Rows or a dense array with lazy='catch_up', got a sparse"):
        rf.step(p, scipy.sparse.csr_array(p), rf.init(p, lazy="catch_up"))
    with pytest.raises(ValueError, match=r"grads: expected a dense array or Rows for a parameter of shape \(3,\)"):
        rf.step(np.ones(3), scipy.sparse.coo_array(np.ones(3)), rf.init(np.ones(3)))
    p = np.zeros((2**60, 0), np.float32)
    with pytest.raises(ValueError, match=r"rows: expected a table and a gradient that fit in memory"):
        rf.step(p, rf.Rows(np.arange(8), np.zeros((8, 0), np.float32)), rf.init(p))
    with pytest.raises(ValueError, match=r"lazy: expected one of 'rows', 'dense', 'catch_up', got 'eager'"):
        rf.init(p, lazy="eager")
    with pytest.raises(AttributeError):
        rf.init(p).lazy = "dense"  # type: ignore[misc]


def test_rows_in_any_memory() -> None:
    """Strided indices, and inner axes in an order of their own; but no values that the step itself changes."""
    random = np.random.default_rng(0)
    p = random.standard_normal((6, 2, 3))
    rows = np.array([5, 99, 0, 99, 5])[::2]
    gradients = [{"w": rf.Rows(rows, random.standard_normal((3, 2, 3)))}]
    assert_steps_are_those_of_the_reference({"w": p.copy()}, gradients)
    twisted = np.ascontiguousarray(p.transpose(0, 2, 1)).transpose(0, 2, 1)
    values = np.ascontiguousarray(random.standard_normal((3, 3, 2))).transpose(0, 2, 1)
    assert_steps_are_those_of_the_reference({"w": twisted}, [{"w": rf.Rows(rows, values)}])


def test_values_may_not_lie_in_what_is_written() -> None:
    memory = np.ones(24)
    p = memory[12:].reshape(4, 3)
    state = rf.init(p)
    rf.step(p, rf.Rows(np.array([1]), np.ones((1, 3))), state)
    before = memory.copy()
    for rows in ([1], [1, 1]):  # of which the second alone lies there
        values = memory[15 - 3 * len(rows) : 15].reshape(-1, 3)
        with pytest.raises(ValueError, match=r"^grads: overlaps the memory of params, expected arrays apart|^params: "):
            rf.step(p, rf.Rows(np.array(rows), values), state)
    assert same_bits(memory, before)


def test_a_sum_begins_with_its_first_value() -> None:
    """So that minus zero stays what it is, be it added up with others or not."""
    for rows in ([0], [1, 0, 1]):
        p = np.full((2, 1), -0.0)
        rf.step(p, rf.Rows(np.array(rows), np.full((len(rows), 1), -0.0)), rf.init(p, eps=1.0))
        assert not np.signbit(p[0, 0])  # -0.0 - -0.0


def test_a_matrix_may_make_its_arrays_anew_at_each_access() -> None:
    class Fleeting(scipy.sparse.coo_array):  # type: ignore[misc]
        row = property(lambda self: np.arange(1000) % 40)
        col = property(lambda self: np.arange(1000) // 40)
        data = property(lambda self: np.arange(1000.0), lambda self, value: None)

    params = {"w": np.ones((40, 25))}
    matrix = Fleeting((np.zeros(1000), (np.arange(1000) % 40, np.arange(1000) // 40)), (40, 25))
    assert_steps_are_those_of_the_reference(params, [{"w": matrix}] * 3)


def test_values_that_are_moved_while_others_are_looked_at() -> None:
    class Meddling(scipy.sparse.coo_array):  # type: ignore[misc]
        @property
        def data(self) -> Any:
            if meddles:
                values.resize((10_000, 4), refcheck=False)
            return np.ones(1)

        @data.setter
        def data(self, _: Any) -> None:
            pass

    meddles = False
    values = np.ones((2, 4))
    params = {"a": np.ones((3, 4)), "b": np.ones((3, 4))}
    grads = {"a": rf.Rows(np.array([0, 1]), values), "b": Meddling(([1.0], ([0], [0])), (3, 4))}
    meddles = True
    with pytest.raises(RuntimeError, match=r"^grads\['a'\]: expected values that stay where they are during a call"):
        rf.step(params, grads, rf.init(params))
    assert all((p == 1).all() for p in params.values())


@linux
@pytest.mark.parametrize("lazy", LAZY)
def test_a_call_needs_memory_of_the_gradient_not_of_the_table(lazy: str) -> None:
    """Of 100,000 rows at most 100 bytes a row, beside a table that has 500 times as many bytes."""
    code = f"""if True:
        import resource, numpy as np, rmsprop_fast as rf
        rf.set_num_threads(1)
        p = np.ones((10_000_000, 8), np.float32)
        state = rf.init(p, lazy={lazy!r}, initial_s=1.0)
        if state.lazy == "catch_up":
            state._last[:] = 0
        rows = np.arange(0, 10_000_000, 100)[::-1]
        gradient = rf.Rows(rows, np.ones((len(rows), 8), np.float32))
        few = rf.Rows(rows[:1], gradient.values[:1])
        rf.step(p, few, state)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rf.step(p, gradient, state)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    run = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert 1024 * int(run.stdout) < 100 * 100_000


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rows_are_stepped_as_by_tensorflow(momentum: float) -> None:
    """Its op steps a row that comes twice two times, so here each comes once; momentum of other rows does not decay."""
    tensorflow = pytest.importorskip("tensorflow")
    random = np.random.default_rng(0)
    p = random.standard_normal((20, 4)).astype(np.float32)
    variables = [tensorflow.Variable(values) for values in (p, np.ones_like(p), np.zeros_like(p))]
    var, ms, mom = (variable.handle for variable in variables)
    state = rf.init(p, **rf.presets.tf1(lr=0.1, momentum=momentum), lazy="rows")
    for _ in range(100):
        rows = random.permutation(20)[:5]
        values = random.standard_normal((5, 4)).astype(np.float32)
        tensorflow.raw_ops.ResourceSparseApplyRMSProp(
            var=var,
            ms=ms,
            mom=mom,
            lr=0.1,
            rho=state.rho,
            momentum=momentum,
            epsilon=state.eps,
            grad=values,
            indices=rows,
        )
        rf.step(p, rf.Rows(rows, values), state)
    np.testing.assert_allclose(p, variables[0].numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state.s, variables[1].numpy(), rtol=1e-5)
