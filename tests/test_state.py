"""What users do with a state: trees, live arrays, hyper-parameters that change, resuming."""

from __future__ import annotations

import collections
import copy
import gc
import math
import os
import pickle
import subprocess
import sys
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import rmsprop_fast as rf
from bits import same_bits

pytestmark = pytest.mark.core

BFLOAT16: Any = ml_dtypes.bfloat16


def test_the_example_of_the_readme() -> None:
    params = {"w": np.zeros((64, 4), np.float32), "b": np.zeros(64, np.float32)}
    grads = {"b": np.ones(64, np.float32), "w": np.ones((64, 4), np.float32)}  # any order
    state = rf.init(params)
    assert (state.lr, state.rho, state.eps, state.steps) == (0.01, 0.999, 1e-8, 0)
    rf.step(params, grads, state)
    assert state.steps == 1
    # the first step is lr * g / (sqrt(0.001) * |g|)
    np.testing.assert_allclose(params["w"], -0.01 / np.sqrt(0.001), rtol=1e-6)
    assert list(state.s) == ["w", "b"]
    assert state.s["w"].shape == (64, 4)


def test_arguments_by_name() -> None:
    p = np.zeros(3)
    state = rf.init(params=p)
    rf.step(state=state, grads=np.ones(3), params=p)
    rf.step(p, state=state, grads=np.ones(3))
    assert state.steps == 2


def test_s_is_live_and_keeps_the_tree() -> None:
    params: Any = OrderedDict(x=[np.zeros(2), (np.zeros(3), {1: np.zeros(4)})], y=Layer(np.zeros(1), np.zeros(0)), z={})
    state = rf.init(params)
    shapes = {"x": [(2,), ((3,), {1: (4,)})], "y": ((1,), (0,)), "z": {}}
    assert {"x": [state.s["x"][0].shape, (state.s["x"][1][0].shape, {1: state.s["x"][1][1][1].shape})]} == {
        "x": shapes["x"]
    }
    assert tuple(leaf.shape for leaf in state.s["y"]) == shapes["y"]
    assert state.s["z"] == {}
    assert state.s["x"][0] is state.s["x"][0]
    state.s["x"][0][...] = 100
    rf.step(params, params_like(params), state)
    assert state.s["x"][0][0] == 0.999 * 100 + (1 - 0.999)


def params_like(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: params_like(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        children = [params_like(child) for child in tree]
        return children if isinstance(tree, list) else tuple(children)
    return np.ones_like(tree)


Layer = namedtuple("Layer", ["w", "b"])


class Net(NamedTuple):
    first: Any
    second: Any


CHANGES: dict[str, Callable[[Any], object]] = {
    "dict[key] = x": lambda tree: tree.__setitem__("d", 0),
    "del dict[key]": lambda tree: tree.__delitem__("l"),
    "dict |= x": lambda tree: tree.__ior__({"d": 0}),
    "dict.clear": lambda tree: tree.clear(),
    "dict.pop": lambda tree: tree.pop("l"),
    "dict.popitem": lambda tree: tree.popitem(),
    "dict.setdefault": lambda tree: tree.setdefault("x", 0),
    "dict.update": lambda tree: tree.update(d=0),
    "dict.__init__": lambda tree: tree.__init__(d=0),
    "list[index] = x": lambda tree: tree["l"].__setitem__(0, 0),
    "list[slice] = x": lambda tree: tree["l"].__setitem__(slice(0, 2), []),
    "del list[index]": lambda tree: tree["l"].__delitem__(0),
    "list += x": lambda tree: tree["l"].__iadd__([0]),
    "list *= x": lambda tree: tree["l"].__imul__(2),
    "list.append": lambda tree: tree["l"].append(0),
    "list.clear": lambda tree: tree["l"].clear(),
    "list.extend": lambda tree: tree["l"].extend([0]),
    "list.insert": lambda tree: tree["l"].insert(0, 0),
    "list.pop": lambda tree: tree["l"].pop(),
    "list.remove": lambda tree: tree["l"].remove(tree["l"][0]),
    "list.reverse": lambda tree: tree["l"].reverse(),
    "list.sort": lambda tree: tree["l"].sort(key=id),
    "list.__init__": lambda tree: tree["l"].__init__([]),
    "in a tuple": lambda tree: tree["t"][0].append(0),
    "in a namedtuple": lambda tree: tree["n"].w.update(x=0),
    "OrderedDict[key] = x": lambda tree: tree["o"].__setitem__("a", 0),
    "OrderedDict.update": lambda tree: tree["o"].update(a=0),
    "OrderedDict.popitem": lambda tree: tree["o"].popitem(last=False),
    "OrderedDict.move_to_end": lambda tree: tree["o"].move_to_end("a"),
    "in an OrderedDict": lambda tree: tree["o"]["b"].append(0),
}


def every_container() -> Any:
    def zeros() -> Any:
        return np.zeros(2)

    ordered = OrderedDict(a=zeros(), b=[zeros()])
    return {"d": zeros(), "l": [zeros(), zeros()], "t": ([],), "n": Layer({"x": zeros()}, ()), "o": ordered}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["s", "centered s", "variance", "grad_avg", "momentum_buffer", "lr"])
def test_a_change_of_a_container_is_not_lost_but_refused(change: str, name: str) -> None:
    CHANGES[change](every_container())  # fine for others
    params = every_container()
    state = rf.init(params, centered=name != "s", momentum=0.5)
    state.lr = copy.deepcopy(params)
    tree = getattr(state, name.split()[-1])
    before = repr(tree)
    with pytest.raises(TypeError, match=r"expected a whole tree to be assigned, as in state\.lr = tree, or an array"):
        CHANGES[change](tree)
    assert repr(tree) == repr(getattr(state, name.split()[-1])) == before


def test_containers_come_back_as_what_they_were() -> None:
    class Ordered(OrderedDict[str, Any]):
        pass

    subs: dict[type, Any] = {each: type("Sub", (each,), {}) for each in (dict, list, tuple)}
    params = OrderedDict(
        n=Layer(np.zeros(1), Net([np.zeros(2)], {})),
        o=Ordered(b=np.zeros(3), a=np.zeros(4)),
        s=subs[dict](x=subs[list]([subs[tuple]([np.zeros(5)])])),
    )
    state = rf.init(params, lr=params, momentum=0.5)
    for tree in (state.s, state.lr, state.momentum_buffer, rf.step_size(state)):
        assert type(tree["n"]) is Layer
        assert type(tree["n"].b) is Net
        assert isinstance(tree, OrderedDict)
        assert isinstance(tree["o"], OrderedDict)
        assert (list(tree), list(tree["o"]), list(reversed(tree["o"]))) == (["n", "o", "s"], ["b", "a"], ["a", "b"])
        assert [leaf.size for leaf in (tree["n"].w, tree["n"].b.first[0], *tree["o"].values())] == [1, 2, 3, 4]
        plain = tree["s"], tree["s"]["x"], tree["s"]["x"][0]
        assert not any(isinstance(each, sub) for each, sub in zip(plain, subs.values(), strict=True))
        assert type(plain[2]) is tuple
        assert not isinstance(plain[0], OrderedDict)
    rf.step(params, copy.deepcopy(params), state)
    rf.reference.step(params, copy.deepcopy(params), state)
    assert state.steps == 2


def types(tree: Any) -> Any:
    if isinstance(tree, dict):
        return type(tree), {key: types(child) for key, child in tree.items()}
    return (type(tree), [types(child) for child in tree]) if isinstance(tree, (list, tuple)) else type(tree)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda tree: pickle.loads(pickle.dumps(tree)), lambda tree: pickle.loads(pickle.dumps(tree, 0))],
    ids=["deepcopy", "pickle", "pickle 0"],
)
def test_copies_of_a_tree_are_plain(copied: Any) -> None:
    params = every_container()
    state = rf.init(params)
    assert types(copied(state.s)) == types(params)
    assert types(rf.step_size(state)) == types(params)  # which is nobody else's, so one may change it


def test_shallow_copies_of_a_container_are_plain() -> None:
    s = rf.init(every_container()).s
    for same, plain in ((s, dict), (s["l"], list), (s["o"], OrderedDict)):
        makers: list[Any] = [copy.copy, lambda tree: tree.copy(), plain, type(same)]
        makers.append((lambda tree: tree[:]) if plain is list else (lambda tree: tree | {}))
        for make in makers:
            assert type(make(same)) is plain
            assert len(make(same)) == len(same)


def kept_names(hyper: dict[str, Any]) -> list[str]:
    names = ["variance", "grad_avg"] if hyper.get("centered") else ["s"]
    return [*names, "momentum_buffer"] if hyper.get("momentum") else names


@pytest.mark.parametrize("hyper", [{}, {"momentum": 0.5}, {"centered": True, "momentum": 0.5}], ids=repr)
def test_what_is_kept_may_be_assigned(hyper: dict[str, Any]) -> None:
    """A second state goes on where the first one was saved."""
    random = np.random.default_rng(0)

    def tree() -> Any:
        leaf = np.asfortranarray(random.standard_normal((3, 4)).astype(np.float32))
        return {"w": leaf, "b": [random.standard_normal(5), np.array(random.standard_normal(), np.float16)]}

    p, steps = tree(), [tree() for _ in range(6)]
    first = rf.init(p, **hyper)
    for g in steps[:3]:
        rf.step(p, g, first)
    saved = {name: copy.deepcopy(getattr(first, name)) for name in kept_names(hyper)}
    expected = copy.deepcopy(p)
    for g in steps[3:]:
        rf.step(expected, g, first)

    second = rf.init(p, **hyper)
    live = {name: getattr(second, name)["w"] for name in saved}
    for name, values in saved.items():
        setattr(second, name, values)
        assert getattr(second, name)["w"] is live[name]
        assert same_bits(live[name], values["w"])
        values["w"][...] = 99  # they were copied
    second.steps = first.steps
    for g in steps[3:]:
        rf.step(p, g, second)
    for found, want in ((p["w"], expected["w"]), *zip(p["b"], expected["b"], strict=True)):
        assert same_bits(found, want)


def test_assigned_values_are_rounded_and_may_be_what_steps_lead_to() -> None:
    p = {"w": np.zeros((2, 2), np.float32), "x": np.zeros(())}
    state = rf.init(p, momentum=0.5)
    state.s = {"w": np.array([[np.inf, np.nan], [1 / 3, 1e300]]), "x": 7}
    assert same_bits(state.s["w"], np.array([[np.inf, np.nan], [1 / 3, np.inf]], np.float32))
    assert state.s["x"] == 7
    state.s = {"w": np.arange(4).reshape(2, 2), "x": np.float32(0.5)}
    np.testing.assert_array_equal(state.s["w"], [[0, 1], [2, 3]])
    assert state.s["x"] == 0.5
    state.momentum_buffer = {"w": np.array([[-1, -np.inf], [np.nan, 0]], np.float16), "x": np.array(-2)}
    assert same_bits(state.momentum_buffer["w"], np.array([[-1, -np.inf], [np.nan, 0]], np.float32))
    state.s["x"][...] = 3
    state.s = state.s
    assert state.s["x"] == 3
    state.variance = state.grad_avg = None  # as they are


def test_live_arrays_may_be_assigned_to_each_other() -> None:
    state = rf.init([np.zeros(2), np.zeros(2)])
    state.s[0][...], state.s[1][...] = 1, 2
    state.s = state.s[::-1]
    assert [each.tolist() for each in state.s] == [[2, 2], [1, 1]]


def test_an_array_may_be_changed_in_place_by_its_attribute() -> None:
    state = rf.init(np.zeros(3))
    s = state.s
    state.s += 5
    assert state.s is s
    assert s.tolist() == [5, 5, 5]


@pytest.mark.parametrize("params", [[], (), {}, {"a": [], "b": ((), {})}])
def test_trees_without_leaves(params: Any) -> None:
    state = rf.init(params)
    rf.step(params, params, state)
    assert state.steps == 1
    assert state.s == params


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1)])
def test_scalars_and_empty_arrays(shape: tuple[int, ...]) -> None:
    p = np.zeros(shape)
    state = rf.init(p)
    rf.step(p, np.ones(shape), state)
    assert np.all(p != 0)
    assert state.s.shape == shape


def test_trees_nested_deeper_than_the_stack() -> None:
    def nest(leaf: Any) -> Any:
        for level in range(100_000):
            leaf = {"a": leaf} if level % 3 == 0 else [leaf] if level % 3 == 1 else (leaf,)
        return leaf

    leaf, expected = np.zeros(3), np.zeros(3)
    params, grads, expected_params = nest(leaf), nest(np.ones(3)), nest(expected)
    state, expected_state = rf.init(params), rf.init(expected_params)
    rf.step(params, grads, state)
    rf.reference.step(expected_params, grads, expected_state)
    assert same_bits(leaf, expected)
    rf.step_size(state)


def test_hyper_parameters_may_change_between_steps() -> None:
    p, expected, g = np.zeros(5), np.zeros(5), np.arange(5.0)
    state, expected_state = rf.init(p), rf.init(expected)
    for t in range(5):
        for each in (state, expected_state):
            each.lr, each.rho, each.eps = 0.1 / (t + 1), 0.5 + 0.1 * t, 10.0**-t
        rf.step(p, g, state)
        rf.reference.step(expected, g, expected_state)
    assert same_bits(p, expected)
    assert (state.lr, state.rho, state.eps) == (0.1 / 5, 0.5 + 0.1 * 4, 10.0**-4)


@pytest.mark.parametrize(
    "number",
    [1, np.float32(0.5), np.float64(0.5), np.int64(2), np.array(0.25), np.array(3), np.float16(2), BFLOAT16(0.5)],
)
def test_what_counts_as_a_number(number: Any) -> None:
    state = rf.init(np.zeros(3), lr=number)
    assert state.lr == float(number)
    assert type(state.lr) is float


def test_lr_as_a_tree() -> None:
    params = {"w": np.zeros((2, 3), np.float32), "b": [np.zeros(3), np.zeros(())]}
    given = np.arange(6.0).reshape(2, 3) / 7
    state = rf.init(params, lr={"b": [1, 2.5], "w": given})
    assert state.lr["b"] == [1.0, 2.5]
    assert same_bits(state.lr["w"], given.astype(np.float32))
    given[...] = 99  # it was copied
    assert state.lr["w"].max() < 1
    with pytest.raises(ValueError, match="read-only"):
        state.lr["w"][0, 0] = 5
    with pytest.raises(ValueError, match="WRITEABLE"):
        state.lr["w"].flags.writeable = True
    state.lr = 0.5
    assert state.lr == 0.5
    state.lr = state.lr  # what comes back can be assigned
    state.lr = {"w": 1, "b": [2, np.array(3)]}
    state.lr = state.lr
    assert state.lr == {"w": 1.0, "b": [2.0, 3.0]}


def test_lr_arrays_take_the_memory_order_of_their_leaf() -> None:
    p, expected = np.zeros((3, 4), order="F"), np.zeros((3, 4), order="F")
    lr, g = np.random.default_rng(0).uniform(0, 1, (2, 3, 4))
    g = np.asfortranarray(g)
    state, expected_state = rf.init(p, lr=lr), rf.init(expected, lr=lr)
    rf.step(p, g, state)
    rf.reference.step(expected, g, expected_state)
    assert same_bits(p, expected)
    np.testing.assert_array_equal(state.lr, lr)


def test_lr_arrays_of_bfloat16() -> None:
    p = np.zeros(3, BFLOAT16)
    state = rf.init(p, lr=np.full(3, 0.5, BFLOAT16))
    assert state.lr.dtype == np.float32
    assert np.all(state.lr == 0.5)


def test_resuming_continues_the_same_path() -> None:
    random = np.random.default_rng(0)
    grads = random.standard_normal((10, 6))
    straight = np.zeros(6)
    state = rf.init(straight)
    for g in grads:
        rf.step(straight, g, state)

    p = np.zeros(6)
    first = rf.init(p)
    for g in grads[:4]:
        rf.step(p, g, first)
    second = rf.init(p)
    second.s[...] = first.s
    second.steps = first.steps
    for g in grads[4:]:
        rf.step(p, g, second)
    assert same_bits(p, straight)
    assert second.steps == state.steps == 10
    second.steps = 2**63 - 1
    assert second.steps == 2**63 - 1


def test_counters_stay_at_their_maximum() -> None:
    p = np.zeros(1)
    state = rf.init(p, skip_nonfinite=True)
    state.steps = state.skipped = 2**63 - 1
    rf.step(p, np.ones(1), state)
    rf.step(p, np.full(1, np.nan), state)
    assert state.steps == state.skipped == 2**63 - 1


def test_momentum_may_be_set_to_0() -> None:
    p, expected, g = np.zeros(3), np.zeros(3), np.arange(3.0)
    state, expected_state = rf.init(p, momentum=0.9), rf.init(expected, momentum=0.9)
    for momentum in (0.9, 0, 0.5):
        state.momentum = expected_state.momentum = momentum
        rf.step(p, g, state)
        rf.reference.step(expected, g, expected_state)
    assert same_bits(p, expected)


@pytest.mark.parametrize("setup", ["", "sys.modules['ml_dtypes'] = None", "sys.modules['ml_dtypes'] = sys"])
def test_without_ml_dtypes(setup: str) -> None:
    """It may be absent, blocked, or in the middle of being imported; and it may come later."""
    code = f"""
import sys
import numpy as np, rmsprop_fast as rf
{setup}
for dtype in (np.float16, np.float32, np.float64):
    p = np.ones(3, dtype)
    rf.step(p, np.ones(3, dtype), rf.init(p))
try:
    rf.step(p, np.ones(3, np.int16), rf.init(p))
except TypeError as error:
    assert "expected float64" in str(error)
else:
    raise AssertionError
sys.modules.pop("ml_dtypes", None)
import ml_dtypes
p = np.ones(3, ml_dtypes.bfloat16)
rf.step(p, p.copy(), rf.init(p))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_subclasses_of_ndarray_without_a_mask(tmp_path: Any) -> None:
    p = np.memmap(tmp_path / "p", np.float32, "w+", shape=(4,))
    state = rf.init(p)
    rf.step(p, np.ones(4, np.float32), state)
    assert type(state.s) is np.ndarray
    assert np.all(p < 0)


def test_the_state_keeps_no_parameters_alive() -> None:
    p, g = np.zeros(3), np.ones(3)
    state = rf.init(p)
    before = sys.getrefcount(p), sys.getrefcount(g)
    rf.step(p, g, state)
    assert (sys.getrefcount(p), sys.getrefcount(g)) == before


NUMBERS: list[Any] = [
    *(1 / 3, -2.5, 7, 0, -0.0, 1e300, -1e-300, 2**80, math.inf, math.nan, 65520.0, 1e39),
    *(dtype(1 / 3) for dtype in (np.float64, np.float32, np.float16, BFLOAT16)),
    *(np.int8(-3), np.uint64(2**63 + 1), np.longdouble(1) / 3, Fraction(1, 3)),
]


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.float16, BFLOAT16], ids=lambda dtype: np.dtype(dtype).name
)
def test_numbers_are_gradients_of_arrays_without_axes(dtype: Any, number: Any) -> None:
    with np.errstate(over="ignore", under="ignore"):
        as_array = np.array(float(number), dtype)
    found = []
    for step, g in ((rf.step, number), (rf.reference.step, number), (rf.step, as_array)):
        params: Any = {"a": np.ones(2, dtype), "b": [np.ones((), dtype)]}
        grads = {"a": np.ones(2, dtype), "b": [g]}
        state = rf.init(params, momentum=0.5, clip_global_norm=1e30)
        for _ in range(2):
            step(params, grads, state)
        found.append([params["b"][0], state.s["b"][0], state.momentum_buffer["b"][0], np.array(state.grad_norm)])
    for each in found[:2]:
        assert all(same_bits(a, b) for a, b in zip(each, found[2], strict=True))


def test_what_numpy_makes_of_a_sum_is_a_gradient() -> None:
    x, bias = np.arange(5.0), np.zeros(())
    state = rf.init(bias)
    rf.step(bias, (x - bias).sum(), state)
    rf.step(bias, x.mean(dtype=np.float32), state)
    assert state.steps == 2
    assert bias < 0


def test_a_step_without_gradients() -> None:
    params = {"w": np.ones(3), "b": [np.ones(()), (np.ones(2, np.float16),)]}
    state = rf.init(params, momentum=0.5, clip_global_norm=1, weight_decay=0.1)
    rf.step(params, copy.deepcopy(params), state)
    before = repr((params, state.s, state.momentum_buffer))
    rf.step(params, {"w": None, "b": [None, (None,)]}, state)
    assert repr((params, state.s, state.momentum_buffer)) == before
    assert (state.steps, state.skipped, state.grad_norm) == (2, 0, 0)
    rf.step(p := np.ones(3), None, state := rf.init(p))
    assert state.steps == 1
    assert np.all(p == 1)


class Key:
    """A key that may refer to a state, and so to itself."""

    state: Any = None
    on_comparison: Any = None

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        if self.on_comparison:
            self.on_comparison()
        return isinstance(other, Key)


def test_a_state_in_a_cycle_is_collected() -> None:
    key = Key()
    key.state = rf.init({"a": [{key: np.zeros(3)}]}, lr={"a": [{key: np.ones(3)}]}, momentum=0.5, centered=True)
    rf.step({"a": [{key: np.ones(3)}]}, {"a": [{key: np.ones(3)}]}, key.state)
    seen, array_seen = weakref.ref(key), weakref.ref(key.state.variance["a"][0][key])
    gc.collect()
    assert seen() is not None
    assert key.state.steps == 1
    del key
    gc.collect()
    assert seen() is None
    assert array_seen() is None


def test_the_garbage_collector_sees_all_objects_of_a_state() -> None:
    key, other = Key(), Key()
    params, grads = {key: np.ones(3)}, {other: np.ones(3)}
    state = rf.init(params, lr={key: np.ones(3)}, momentum=0.5, centered=True)
    kept = [state.variance, state.grad_avg, state.momentum_buffer, state.lr]
    before = [type(state), key, *(tree[key] for tree in kept)]
    during: list[Any] = []
    other.on_comparison = lambda: during.extend(gc.get_referents(state))
    rf.step(params, grads, state)
    for found, expected in (
        (gc.get_referents(state), before),
        (during, [*before, params, params[key], grads]),
    ):
        counts = collections.Counter(map(id, found))
        assert all(counts[id(each)] == 1 for each in expected)


def test_what_a_step_lets_go_may_collect_garbage() -> None:
    """Here the step is the last to hold the gradients; debug hooks fill what was freed."""
    code = """
import gc, weakref
import numpy as np, rmsprop_fast as rf

class Key:
    def __hash__(self):
        return 1
    def __eq__(self, other):
        grads.clear()
        return isinstance(other, Key)

params = [{"a": np.zeros(3)} for _ in range(50)] + [{Key(): np.zeros(3)}]
state = rf.init(params)
for _ in range(3):
    collected = []
    grads = [{"a": np.ones(3)} for _ in range(50)] + [{Key(): np.ones(3)}]
    watches = [weakref.ref(tree["a"], lambda _: collected.append(gc.collect())) for tree in grads[:50]]
    rf.step(params, grads, state)
    assert len(collected) == 50
assert state.steps == 3
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONMALLOC": "debug"})


def test_repr() -> None:
    assert repr(rf.init(np.zeros(3), lr=0.5)) == "State(lr=0.5, rho=0.999, eps=1e-08, steps=0)"


def test_info() -> None:
    info = rf.info()
    assert list(info) == ["version", "kernel", "kernels", "threads", "openmp", "compiler"]
    assert info["version"] == rf.__version__
    assert info["kernels"] == rf.kernels()
    assert info["kernel"] == rf.get_kernel()
    assert info["threads"] == rf.get_num_threads()
