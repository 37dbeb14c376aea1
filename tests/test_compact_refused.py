"""What a compact state refuses, by name and without a trace; what may be changed, and what it takes."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import rmsprop_fast as rf
from bits import same_bits
from compact_cases import BFLOAT16, kept_of, require_same

pytestmark = pytest.mark.core


@pytest.mark.parametrize("gradient", [rf.Rows(np.array([1]), np.ones((1, 31), np.float32)), None])
@pytest.mark.parametrize("lazy", ["rows", "dense"])
def test_blocks_do_not_take_gradients_of_short_rows(lazy: str, gradient: Any) -> None:
    """And a refused call changes nothing."""
    width = 31 if gradient else 40
    g = gradient or scipy.sparse.csr_array(np.eye(5, 40, dtype=np.float32))
    params = {"a": np.ones((4, 32), np.float32), "b": np.ones((5, width), np.float32)}
    state = rf.init(params, state_dtype="uint8", lazy=lazy, momentum=0.5)
    rf.step(params, copy.deepcopy(params), state)
    before, p_before = kept_of(state), copy.deepcopy(params)
    expected = "a dense gradient, or rows along the first axis of at least 32 elements, with state_dtype='uint8'"
    message = f"grads['b']: expected {expected}, got rows of {31 if gradient else 1}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rf.step(params, {"a": np.ones((4, 32), np.float32), "b": g}, state)
    require_same(params, p_before)
    require_same(kept_of(state), before)
    assert state.steps == 1


REFUSED: dict[str, tuple[str, list[Any]]] = {
    "state_dtype": ("None, 'bfloat16', 'uint8'", ["int8", True, 8, np.uint8]),
    "rounding": ("'nearest', 'stochastic'", ["up", None, True]),
    "low_bits": ("0, 8, 16", [4, 24, -8, True, False, 0.5, 8.0, None, "8", 2**70]),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in REFUSED for value in REFUSED[name][1]])
def test_refused_values(name: str, value: Any) -> None:
    message = f"{name}: expected one of {REFUSED[name][0]}, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rf.init(np.zeros(3, BFLOAT16), **{name: value})


def test_refused_combinations() -> None:
    options: list[dict[str, Any]] = [{"state_dtype": "uint8"}, {"rounding": "stochastic"}, {"low_bits": 8}]
    for option, default in zip(options, ("None", "'nearest'", "0"), strict=True):
        ((name, value),) = option.items()
        with pytest.raises(ValueError, match=f"^{name}: expected {default} with rowwise=True, got {value!r}$"):
            rf.init(np.zeros(3, BFLOAT16), rowwise=True, **option)
    with pytest.raises(ValueError, match=r"^state_dtype: expected None with lazy='catch_up', got 'bfloat16'$"):
        rf.init(np.zeros(3, BFLOAT16), lazy="catch_up", state_dtype="bfloat16")


@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
def test_refused_parameters(state_dtype: str) -> None:
    message = "params['b'][0]: expected float32, float16 or bfloat16 with a state_dtype, got float64"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        rf.init({"a": np.zeros(3, np.float32), "b": [np.zeros(2)]}, state_dtype=state_dtype)
    with pytest.raises(ValueError, match=r"^low_bits: expected 0 without bfloat16 parameters, got 16$"):
        rf.init({"a": np.zeros(3, np.float32)}, state_dtype=state_dtype, low_bits=16)


def test_refused_assignments() -> None:
    params = {"a": np.zeros(3, BFLOAT16), "b": np.zeros(2, np.float32)}
    state = rf.init(params, low_bits=8, state_dtype="uint8", momentum=0.5)
    rf.step(params, {"a": np.ones(3, BFLOAT16), "b": np.ones(2, np.float32)}, state)
    before = kept_of(state)
    low, two = np.ones(3, np.uint8), np.zeros(2)
    refused: list[tuple[str, Any, Any, str]] = [
        ("low_order_bits", [low.astype(np.uint16), None], TypeError, "['a']: expected uint8 of shape (3,), got uint16"),
        ("low_order_bits", [np.zeros(3, np.int8), None], TypeError, "['a']: expected uint8 of shape (3,), got int8"),
        ("low_order_bits", [low[:2], None], ValueError, "['a']: expected uint8 of shape (3,), got uint8 of shape (2,)"),
        ("low_order_bits", [None, None], TypeError, "['a']: expected a NumPy array, got NoneType"),
        ("low_order_bits", [[1, 2, 3], None], TypeError, "['a']: expected a NumPy array, got list"),
        ("low_order_bits", [low, low[:2]], TypeError, "['b']: expected None, as the parameter is not bfloat16, got"),
        ("s", [np.array([1, -1, 0]), two], ValueError, "['a']: expected a number of at least 0, got -1.0"),
        ("s", [np.ones(3), np.array([1, -np.inf])], ValueError, "['b']: expected a number of at least 0, got -inf"),
        ("s", [np.ones(4), two], ValueError, "['a']: expected real numbers of shape (3,), got float64 of shape (4,)"),
        ("momentum_buffer", [np.ones(3), two + 1j], ValueError, "['b']: expected real numbers of shape (2,), got comp"),
    ]
    for name, values, error, message in refused:
        with pytest.raises(error, match=f"^state.{name}{re.escape(message)}"):
            setattr(state, name, dict(zip("ab", values, strict=True)))
        require_same(kept_of(state), before)
    with pytest.raises(TypeError, match="expected a dict of 2 as in the state, got NoneType"):
        state.low_order_bits = None
    for name in ("s", "momentum_buffer"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(state, name)["a"][0] = 1
    state.low_order_bits["a"][1] = 77  # which is live
    assert state.low_order_bits["a"].tolist()[1] == 77
    state.low_order_bits = {"a": np.ones(6, np.uint8)[::2], "b": None}
    assert state.low_order_bits["a"].tolist() == [1, 1, 1]
    state.s = {"a": np.array([1, np.nan, np.inf]), "b": two}  # may be what steps lead to
    assert state.s["a"].tolist() == [1, 1.875, 1.875]


def test_nbytes() -> None:
    params = {"a": np.zeros(1000, BFLOAT16), "b": np.zeros((5, 31), BFLOAT16), "c": np.zeros((3, 300), np.float32)}
    params |= {"d": np.zeros((), np.float32), "e": np.zeros((0, 40), np.float32), "f": np.zeros((2, 32), np.float32)}
    elements, low, blocks = 1000 + 155 + 900 + 1 + 64, 1155, 8 + 2 + 3 * 3 + 1 + 2
    for state_dtype, each in ((None, 4 * elements), ("bfloat16", 2 * elements), ("uint8", elements + blocks)):
        for low_bits in (0, 8, 16):
            options: dict[str, Any] = {"state_dtype": state_dtype, "low_bits": low_bits}
            assert rf.init(params, **options).nbytes == each + low * low_bits // 8
            assert rf.init(params, centered=True, momentum=0.5, **options).nbytes == 3 * each + low * low_bits // 8
    large = np.zeros(2**20, np.float32)
    assert rf.init(large, state_dtype="uint8").nbytes * 3.96 < rf.init(large).nbytes == 2**22


def test_what_may_be_changed_later() -> None:
    p = np.zeros(300, BFLOAT16)
    state, stochastic = (rf.init(p, state_dtype="uint8", low_bits=8, rounding=x) for x in ("nearest", "stochastic"))
    state.rounding = "stochastic"
    rf.step(p, np.full(300, 1.1, BFLOAT16), state)
    rf.step(np.zeros(300, BFLOAT16), np.full(300, 1.1, BFLOAT16), stochastic)
    assert same_bits(state.s, stochastic.s)
    assert len(np.unique(state.s)) == 2
    state.steps = 0
    assert (state.state_dtype, state.rounding, state.low_bits) == ("uint8", "stochastic", 8)
    for name, value in (("state_dtype", None), ("low_bits", 0)):
        with pytest.raises(AttributeError, match=r"has no setter|can't set"):
            setattr(state, name, value)
    with pytest.raises(ValueError, match=r"^rounding: expected one of 'nearest', 'stochastic', got 'up'$"):
        state.rounding = "up"
    options = "state_dtype='uint8', rounding='stochastic', low_bits=8"
    assert repr(state) == f"State(lr=0.01, rho=0.999, eps=1e-08, {options}, steps=0)"
    assert repr(rf.init(p)) == "State(lr=0.01, rho=0.999, eps=1e-08, steps=0)"
    with pytest.raises(ValueError, match=r"^rounding: expected 'nearest' with rowwise=True, got 'stochastic'$"):
        rf.init(p, rowwise=True).rounding = "stochastic"


def test_overlaps_with_low_order_bits() -> None:
    """Which are memory of the state's that others can reach."""
    ones = [np.ones(4, BFLOAT16), np.ones(2, BFLOAT16)]
    for low_bits in (8, 16):
        state = rf.init(ones, low_bits=low_bits)
        shared = state.low_order_bits[0].view(BFLOAT16)[:2]
        copies = [x.copy() for x in ones]
        for params, grads, name in (([ones[0], shared], copies, "params"), (ones, [copies[0], shared], "grads")):
            message = f"state.low_order_bits[0]: overlaps the memory of {name}[1], expected arrays apart"
            with pytest.raises(ValueError, match=re.escape(message)):
                rf.step(params, grads, state)
    assert state.steps == 0
    assert all((p == 1).all() for p in ones)


def test_low_order_bits_may_change_places() -> None:
    """All are read before the first is written."""
    params = {name: np.ones(3, BFLOAT16) for name in "ab"}
    state = rf.init(params, low_bits=8)
    state.low_order_bits = {"a": np.full(3, 1, np.uint8), "b": np.full(3, 2, np.uint8)}
    low = state.low_order_bits
    state.low_order_bits = {"a": low["b"], "b": low["a"]}
    assert (state.low_order_bits["a"].tolist(), state.low_order_bits["b"].tolist()) == ([2, 2, 2], [1, 1, 1])


def test_means_are_not_decoded_during_a_step() -> None:
    """Codes and their exponents would not belong together; here a key reads them that is compared in a step."""

    class Key:
        armed = False

        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            if Key.armed:
                Key.armed = False
                _ = state.s
            return isinstance(other, Key)

    params, grads = ({Key(): np.ones(3, np.float32)} for _ in range(2))
    state = rf.init(params, state_dtype="uint8")
    Key.armed = True
    with pytest.raises(RuntimeError, match="expected one that is not in use"):
        rf.step(params, grads, state)
    assert state.steps == 0
