"""A compact state: resumed, with sparse gradients, in trees of several types, on threads, in any memory order."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import rmsprop_fast as rf
from bits import Array, hard_values, same_bits
from compact_cases import BFLOAT16, DTYPES, FORMATS, KEPT, kept_of, name_of, normal, require_same
from rmsprop_fast import _core

pytestmark = pytest.mark.core

FAMILY: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "centered": {"centered": True, "momentum": 0.9, "weight_decay": 0.1, "decoupled": True},
    "clip_value": {"clip_value": 0.5, "maximize": True, "initial_s": 0.5},
    "clip_norm": {"clip_norm": 0.5, "momentum": 0.9, "lr_in_momentum": True},
    "bias_correction": {"bias_correction": True, "eps_inside_sqrt": True, "grad_scale": 2.0},
}


def follow_the_reference(params: dict[str, Array], gradients: list[dict[str, Any]], **options: Any) -> rf.State:
    expected = {name: array.copy(order="K") for name, array in params.items()}
    state, oracle = rf.init(params, **options), rf.init(expected, **options)
    with np.errstate(all="ignore"):
        for grads in gradients:
            rf.step(params, grads, state)
            rf.reference.step(expected, grads, oracle)
            require_same(params, expected)
            require_same(kept_of(state), kept_of(oracle))
            assert (state.steps, state.skipped) == (oracle.steps, oracle.skipped)
            assert state.grad_norm == oracle.grad_norm or state.grad_norm != state.grad_norm
    return state


@pytest.mark.parametrize("kernel", rf.kernels())
@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "uint8"])
def test_16_low_bits_are_the_lower_halves_of_float32(state_dtype: str | None, family: str, kernel: str) -> None:
    """Which are rounded nowhere."""
    rf.set_kernel(kernel)
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"a": (1000,), "b": (7, 45), "c": ()}
    compact = {name: normal(random, shape, BFLOAT16) for name, shape in shapes.items()}
    exact = {name: array.astype(np.float32) for name, array in compact.items()}
    options: dict[str, Any] = {"lr": 0.01, "state_dtype": state_dtype, "rounding": "stochastic", **FAMILY[family]}
    states = rf.init(compact, low_bits=16, **options), rf.init(exact, **options)
    for _ in range(50):
        grads = {name: normal(random, shape, BFLOAT16) for name, shape in shapes.items()}
        rf.step(compact, grads, states[0])
        rf.step(exact, grads, states[1])
        for name in shapes:
            bits, low = exact[name].view(np.uint32), states[0].low_order_bits[name]
            assert same_bits(compact[name].view(np.uint16), (bits >> 16).astype(np.uint16))
            assert same_bits(low, (bits & 0xFFFF).astype(np.uint16))
    found = kept_of(states[0])
    require_same({name: found[name] for name in found if not name.startswith("low")}, kept_of(states[1]))
    assert low.any()


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("form", FORMATS, ids=name_of)
def test_a_state_resumes_where_it_was_saved(form: dict[str, Any], centered: bool) -> None:
    """And what is shown may be assigned again, which changes nothing; also after numbers that are not finite."""
    random = np.random.default_rng(0)
    shapes = {"a": (1000,), "b": (3, 300), "c": (5, 31), "hard": (260,)}
    params = {name: normal(random, shape, BFLOAT16) for name, shape in shapes.items()}
    gradients = [
        {name: (normal(random, shape, float) * 10.0 ** random.integers(-3, 3)) for name, shape in shapes.items()}
        | {"hard": hard_values(random, 260, np.float32)}
        for _ in range(8)
    ]
    gradients = [{name: g.astype(BFLOAT16) for name, g in grads.items()} for grads in gradients]
    options = {"momentum": 0.9, "centered": centered, "rho": 0.9, **form}
    first = rf.init(params, **options)
    for grads in gradients[:4]:
        rf.step(params, grads, first)
    before = kept_of(first)

    resumed = {name: array.copy() for name, array in params.items()}
    second = rf.init(resumed, **options)
    names = [name for name in KEPT if getattr(first, name) is not None and not (centered and name == "s")]
    for state in (second, first):
        for name in names:
            setattr(state, name, getattr(first, name))
        require_same(kept_of(state), before)
    second.steps = first.steps
    for grads in gradients[4:]:
        rf.step(params, grads, first)
        rf.step(resumed, grads, second)
        require_same(resumed, params)
        require_same(kept_of(second), kept_of(first))


@pytest.mark.parametrize("lazy", ["rows", "dense"])
@pytest.mark.parametrize("form", FORMATS, ids=name_of)
def test_sparse_rows_are_those_of_the_reference(form: dict[str, Any], lazy: str) -> None:
    """Unordered, and some more than once; all others keep their bytes with lazy='rows'."""
    random = np.random.default_rng(0)
    widths = [1, 31, 32, 100, 128, 300] if form["state_dtype"] != "uint8" else [32, 100, 128, 300]
    for dtype, family, threads in itertools.product(DTYPES, ("plain", "centered"), (1, 3)):
        if dtype != BFLOAT16 and form["low_bits"]:
            continue
        rf.set_num_threads(threads)
        _core._set_share(1 if threads > 1 else 2**40)
        params = {str(width): normal(random, (12, width), dtype) for width in widths}
        rows = np.array([7, 2, 3, 7, 0, 2])
        grads = [{name: rf.Rows(rows, normal(random, (6, int(name)), dtype)) for name in params} for _ in range(3)]
        dense = {name: normal(random, p.shape, dtype) for name, p in params.items()}
        state = follow_the_reference(params, [dense, *grads[:2]], lazy=lazy, lr=0.1, **FAMILY[family], **form)
        before = {**copy.deepcopy(params), **kept_of(state)}
        rf.step(params, grads[2], state)
        others = [1, 4, 5, 6, 8, 9, 10, 11] if lazy == "rows" else []
        require_same(*({name: a[others] for name, a in x.items()} for x in ({**params, **kept_of(state)}, before)))


@pytest.mark.parametrize("low_bits", [0, 8, 16])
def test_rows_that_catch_up_may_be_rounded_stochastically(low_bits: int) -> None:
    random = np.random.default_rng(0)
    params = {"w": normal(random, (9, 50), BFLOAT16)}
    grads = [{"w": rf.Rows(random.integers(0, 9, 4), normal(random, (4, 50), BFLOAT16))} for _ in range(6)]
    state = follow_the_reference(params, grads, lazy="catch_up", rounding="stochastic", low_bits=low_bits)
    assert state.nbytes == 450 * (4 + low_bits // 8) + 8 * (9 + 1)


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
@pytest.mark.parametrize("lazy", ["rows", "dense"])
def test_sparse_matrices(lazy: str, form: str) -> None:
    random = np.random.default_rng(0)
    for rounding, order in itertools.product(("nearest", "stochastic"), ("C", "F")):
        params = {"w": np.asarray(normal(random, (30, 20), np.float32), order=order)}  # type: ignore[call-overload]
        matrices = [scipy.sparse.random(30, 20, 0.1, form, np.float32, random) for _ in range(4)]
        grads = [{"w": matrix} for matrix in matrices]
        options: dict[str, Any] = {"lazy": lazy, "state_dtype": "bfloat16", "rounding": rounding, "rho": 0.9}
        follow_the_reference(params, grads, momentum=0.9, **options)


@pytest.mark.parametrize("form", FORMATS, ids=name_of)
@pytest.mark.parametrize(
    "option", [{"skip_nonfinite": True}, {"clip_global_norm": 0.5}, {"skip_nonfinite": True, "clip_norm": 0.1}]
)
def test_trees_of_several_types(option: dict[str, Any], form: dict[str, Any]) -> None:
    """Gradients of other types, gradients that are not finite, and none for a leaf, which then stays as it was."""
    random = np.random.default_rng(0)
    shapes: dict[str, Any] = {"a": 300, "b": (4, 33), "c": 50, "d": 140, "e": ()}
    types = dict(zip(shapes, (np.float32, BFLOAT16, np.float16, BFLOAT16, BFLOAT16), strict=True))
    others = dict(zip(shapes, (BFLOAT16, np.float32, BFLOAT16, np.float16, np.float32), strict=True))
    params: dict[str, Array]
    params, *gradients = (
        {name: normal(random, shape, dtypes[name]) for name, shape in shapes.items()}
        for dtypes in (types, types, others, types, others, types)
    )
    gradients[3]["b"][2, 5] = np.inf
    state = follow_the_reference(params, gradients, momentum=0.9, **option, **form)
    if form["low_bits"]:
        assert [name for name in params if state.low_order_bits[name] is not None] == ["b", "d", "e"]
    assert state.skipped == option.get("skip_nonfinite", False)
    before = {**params, **kept_of(state)}
    kept = {name: array.copy() for name, array in before.items() if "d" in name.replace("order", "")}
    grads: dict[str, Any] = {**gradients[0], "d": None}
    rf.step(params, grads, state)
    now = {**params, **kept_of(state)}
    require_same({name: now[name] for name in kept}, kept)
    state.momentum_buffer = {name: np.full(p.shape, -0.5) for name, p in params.items()}  # also of "d"
    assert all((abs(array + 0.5) < 2**-14).all() for array in state.momentum_buffer.values())
    follow_the_reference(params, [grads, gradients[1]], momentum=0.9, **option, **form)


@pytest.mark.parametrize("form", FORMATS, ids=name_of)
def test_large_arrays_on_threads(form: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"a": (300_003,), "b": (1001, 300)}
    start, *gradients = [{name: normal(random, shape, BFLOAT16) for name, shape in shapes.items()} for _ in range(3)]
    for momentum in (0, 0.9):
        found = []
        for threads in (1, 2, 7):
            rf.set_num_threads(threads)
            params = copy.deepcopy(start)
            state = rf.init(params, momentum=momentum, **form)
            for grads in gradients:
                rf.step(params, grads, state)
            found.append({**params, **kept_of(state)})
        require_same(found[1], found[0])
        require_same(found[2], found[0])


@pytest.mark.parametrize("kernel", rf.kernels())
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)], ids=repr)
def test_the_sign_of_nan_does_not_matter(signs: tuple[int, int], kernel: str) -> None:
    """Of two NaNs, which one an operation returns is up to the compiler; and codes have a sign, but no NaN."""
    rf.set_kernel(kernel)
    p, g = (np.copysign(np.full(150, np.nan, np.float32), sign) for sign in signs)
    follow_the_reference({"p": p}, [{"p": g}] * 2, state_dtype="uint8", momentum=0.9, weight_decay=0.1)


@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_any_leaves(data: st.DataObject) -> None:
    """Of any shape, memory order and type, with any format and options."""
    form = data.draw(st.sampled_from(FORMATS))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    params: dict[str, Array] = {}
    for name in "abc"[: data.draw(st.integers(1, 3))]:
        dtype = data.draw(st.sampled_from(DTYPES)) if params or not form["low_bits"] else BFLOAT16
        shape = tuple(data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 31, 33, 130]), max_size=3)))
        order = data.draw(st.permutations(range(len(shape))))
        memory = normal(random, tuple(shape[axis] for axis in order), dtype)
        params[name] = memory.transpose(np.argsort(order)) if shape else memory
    gradients: list[dict[str, Any]] = []
    for hard in data.draw(st.lists(st.booleans(), min_size=1, max_size=3)):
        grads: dict[str, Any] = {}
        for name, p in params.items():
            g = np.empty_like(p)
            with np.errstate(over="ignore"):
                numbers = hard_values(random, p.size, np.float32) if hard else normal(random, p.size, np.float32)
                g[...] = numbers.reshape(p.shape)
            grads[name] = g if data.draw(st.integers(0, 5)) else None
        gradients.append(grads)
    options = FAMILY[data.draw(st.sampled_from([*FAMILY]))]
    rf.set_kernel(data.draw(st.sampled_from(rf.kernels())))
    rf.set_num_threads(data.draw(st.sampled_from([1, 2, 7])))
    _core._set_share(data.draw(st.sampled_from([1, 300, 2**40])))
    follow_the_reference(params, gradients, lr=0.1, rho=0.8, **options, **form)
