"""Promise 2: everything is checked before the first write, and the message says what is wrong where."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import threading
import time
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rmsprop_fast as rf
from rmsprop_fast import _core

pytestmark = pytest.mark.core


class Call:
    """Arguments of a step that is fine, to be spoiled by a test, and a look at all bytes it could have changed."""

    def __init__(self) -> None:
        self.params: Any = {"w": np.ones((4, 3), np.float32), "b": [np.ones(5), np.ones(2, np.float32)]}
        self.grads: Any = {"b": [np.ones(5), np.ones(2, np.float32)], "w": np.ones((4, 3), np.float32)}
        self.state: Any = rf.init(self.params)
        self.originals = [self.params["w"], *self.params["b"], *self.grads["b"], self.grads["w"]]

    def everything(self) -> list[Any]:
        s = self.state.s
        arrays = [*self.originals, s["w"], *s["b"]]
        hyper = [self.state.lr, self.state.rho, self.state.eps, self.state.steps]
        return [array.tobytes() for array in arrays] + hyper


def set_items(**changes: Any) -> Any:
    """Spoil a call: paths like ``params_b_1`` name what is replaced."""

    def spoil(call: Call) -> None:
        for path, value in changes.items():
            name, *keys = path.split("_")
            target = getattr(call, name)
            places = [int(key) if key.isdigit() else key for key in keys]
            if not places:
                setattr(call, name, value)
                continue
            for place in places[:-1]:
                target = target[place]
            target[places[-1]] = value

    return spoil


def freeze(name: str) -> Any:
    def spoil(call: Call) -> None:
        array = call.state.s["w"] if name == "s" else getattr(call, name)["w"]
        array.flags.writeable = False

    return spoil


def misaligned(size: int, dtype: Any) -> Any:
    raw = np.zeros(size * np.dtype(dtype).itemsize + 1, np.uint8)
    return raw[1:].view(dtype)


def share(source: str, target: str) -> Any:
    """Spoil a call: two arrays in it share some memory (w has 12 elements of 4 bytes)."""

    def spoil(call: Call) -> None:
        block = np.ones(18, np.float32)
        first, second = block[:12].reshape(4, 3), block[6:].reshape(4, 3)
        for place, array in ((source, first), (target, second)):
            getattr(call, place)["w"] = array

    return spoil


def reshape_s(call: Call) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        call.state.s["w"].shape = (3, 4)


class Liar(list[Any]):
    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        raise RuntimeError


CYCLE: list[Any] = []
CYCLE.append(CYCLE)

REFUSALS = {
    # wrong types
    "params: no array": (set_items(params_w=1.0), TypeError, "params['w']: expected a NumPy array, got float"),
    "grads: None for a container": (
        set_items(grads_b=None),
        TypeError,
        "grads['b']: expected a list of 2 as in the state, got NoneType",
    ),
    "grads: None": (set_items(grads=None), TypeError, "grads: expected a dict of 2 as in the state, got NoneType"),
    "params: None without a gradient": (
        set_items(grads_w=None, params_w=None),
        TypeError,
        "params['w']: expected a NumPy array, got NoneType",
    ),
    "grads: list": (set_items(grads_w=[1.0]), TypeError, "grads['w']: expected a NumPy array, got list"),
    "grads: NumPy scalar": (
        set_items(grads_b_0=np.float64(1)),
        TypeError,
        "grads['b'][0]: expected a NumPy array, got numpy.float64",
    ),
    "params: masked": (
        set_items(params_w=np.ma.ones((4, 3), np.float32)),
        TypeError,
        "params['w']: expected a NumPy array without a mask, got MaskedArray",
    ),
    "grads: masked": (
        set_items(grads_w=np.ma.ones((4, 3), np.float32)),
        TypeError,
        "grads['w']: expected a NumPy array without a mask, got MaskedArray",
    ),
    "state: a dict": (set_items(state={}), TypeError, "state: expected a rmsprop_fast.State, got dict"),
    "state: the class": (set_items(state=rf.State), TypeError, "state: expected a rmsprop_fast.State, got "),
    # dtype, byte order, shape
    "params: dtype": (
        set_items(params_w=np.ones((4, 3))),
        TypeError,
        "params['w']: expected float32 of shape (4, 3), got float64 of shape (4, 3)",
    ),
    "grads: dtype": (
        set_items(grads_b_0=np.ones(5, np.int64)),
        TypeError,
        "grads['b'][0]: expected float64 of shape (5,), got int64 of shape (5,)",
    ),
    "grads: objects": (
        set_items(grads_b_0=np.ones(5, object)),
        TypeError,
        "grads['b'][0]: expected float64 of shape (5,), got object of shape (5,)",
    ),
    "params: byte order": (
        set_items(params_w=np.ones((4, 3), np.dtype(np.float32).newbyteorder())),
        TypeError,
        "params['w']: expected float32 of shape (4, 3), got >f4 of shape (4, 3)",
    ),
    "grads: shape": (
        set_items(grads_w=np.ones((3, 4), np.float32)),
        ValueError,
        "grads['w']: expected float32 of shape (4, 3), got float32 of shape (3, 4)",
    ),
    "params: dimensions": (
        set_items(params_w=np.ones(12, np.float32)),
        ValueError,
        "params['w']: expected float32 of shape (4, 3), got float32 of shape (12,)",
    ),
    "grads: would broadcast": (
        set_items(grads_b_0=np.ones(())),
        ValueError,
        "grads['b'][0]: expected float64 of shape (5,), got float64 of shape ()",
    ),
    # memory
    "params: read-only": (freeze("params"), ValueError, "params['w']: expected a writeable array, got a read-only one"),
    "s: read-only": (freeze("s"), ValueError, "state.s['w']: expected a writeable array, got a read-only one"),
    "s: reshaped": (
        reshape_s,
        ValueError,
        "state.s['w']: expected float32 of shape (4, 3), got float32 of shape (3, 4)",
    ),
    "grads: other order": (
        set_items(grads_w=np.ones((4, 3), np.float32, order="F")),
        ValueError,
        "grads['w']: expected strides (12, 4) as in the state, got (4, 16)",
    ),
    "params: not dense": (
        set_items(params_w=np.ones((4, 6), np.float32)[:, ::2]),
        ValueError,
        "params['w']: expected strides (12, 4) as in the state, got (24, 8)",
    ),
    "grads: backwards": (
        set_items(grads_b_0=np.ones(5)[::-1]),
        ValueError,
        "grads['b'][0]: expected strides (8,) as in the state, got (-8,)",
    ),
    "grads: broadcast": (
        set_items(grads_b_0=np.broadcast_to(1.0, 5)),
        ValueError,
        "grads['b'][0]: expected strides (8,) as in the state, got (0,)",
    ),
    "params: not aligned": (
        set_items(params_b_0=misaligned(5, np.float64)),
        ValueError,
        "params['b'][0]: expected memory aligned to 8 bytes, got address ",
    ),
    "grads: not aligned": (
        set_items(grads_b_1=misaligned(2, np.float32)),
        ValueError,
        "grads['b'][1]: expected memory aligned to 4 bytes, got address ",
    ),
    # overlaps
    "params overlap grads": (share("params", "grads"), ValueError, "params['w']: overlaps the memory of grads['w']"),
    "grads overlap params": (share("grads", "params"), ValueError, "grads['w']: overlaps the memory of params['w']"),
    "params are grads": (
        lambda call: call.grads.update(w=call.params["w"]),
        ValueError,
        "overlaps the memory of",
    ),
    "s as grads": (lambda call: call.grads.update(w=call.state.s["w"]), ValueError, "overlaps the memory of"),
    "s as params": (lambda call: call.params.update(w=call.state.s["w"]), ValueError, "overlaps the memory of"),
    # trees
    "params: other container": (
        set_items(params_b=(np.ones(5), np.ones(2, np.float32))),
        TypeError,
        "params['b']: expected a list of 2 as in the state, got a tuple of 2",
    ),
    "grads: too short": (
        set_items(grads_b=[np.ones(5)]),
        ValueError,
        "grads['b']: expected a list of 2 as in the state, got a list of 1",
    ),
    "grads: no container": (
        set_items(grads_b=np.ones(5)),
        TypeError,
        "grads['b']: expected a list of 2 as in the state, got numpy.ndarray",
    ),
    "grads: empty tree": (
        set_items(grads={}),
        ValueError,
        "grads: expected a dict of 2 as in the state, got a dict of 0 without 'w'",
    ),
    "grads: other key": (
        lambda call: call.grads.update(v=call.grads.pop("w")),
        ValueError,
        "grads['w']: expected as in the state, got a dict without it",
    ),
    "grads: one key more": (
        set_items(grads_v=np.ones(1)),
        ValueError,
        "grads: expected a dict of 2 as in the state, got a dict of 3 with 'v'",
    ),
    "grads: cyclic": (
        set_items(grads_b_0=CYCLE),
        TypeError,
        "grads['b'][0]: expected a NumPy array, got list",
    ),
    "grads: lies about its length": (
        set_items(grads_b=Liar([np.ones(5)])),
        ValueError,
        "grads['b']: expected a list of 2 as in the state, got a list of 1",
    ),
    "params: None": (set_items(params=None), TypeError, "params: expected a dict of 2 as in the state, got NoneType"),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("warm", [False, True], ids=["first step", "later step"])
def test_a_refused_step_changes_nothing(case: str, warm: bool) -> None:
    spoil, error, message = REFUSALS[case]
    call = Call()
    if warm:
        rf.step(call.params, call.grads, call.state)
    fine = call.state
    spoil(call)
    spoiled, call.state = call.state, fine
    before = call.everything()
    with pytest.raises(error, match=re.escape(message)):
        rf.step(call.params, call.grads, spoiled)
    assert call.everything() == before


def test_the_call_to_spoil_is_fine() -> None:
    call = Call()
    before = call.everything()
    rf.step(call.params, call.grads, call.state)
    rf.step(call.params, call.grads, call.state)
    assert all(np.all(p < 1) for p in [call.params["w"], *call.params["b"]])
    assert call.everything() != before


def test_params_that_overlap_each_other() -> None:
    block = np.ones(10)
    params = [block[:6], block[5:]]
    state = rf.init(params)
    before = block.tobytes()
    with pytest.raises(ValueError, match=r"params\[0\]: overlaps the memory of params\[1\], expected arrays apart"):
        rf.step(params, [np.ones(6), np.ones(5)], state)
    assert block.tobytes() == before
    params = [block[:5], block[5:]]  # side by side is apart
    rf.step(params, [np.ones(5), np.ones(5)], rf.init(params))
    assert np.all(block < 1)


def test_overlaps_are_found_when_addresses_change_after_a_good_step() -> None:
    block = np.ones(12)
    p, g = block[:4], np.ones(4)
    state = rf.init(p)
    rf.step(p, g, state)
    for _ in range(2):  # a refusal must not count as a check that passed
        with pytest.raises(ValueError, match="overlaps"):
            rf.step(block[2:6], block[4:8], state)
    rf.step(p, g, state)


def test_overlaps_count_with_and_without_gradients() -> None:
    block = np.ones(10)
    params: Any = [block[:6], block[5:]]
    state = rf.init(params)
    with pytest.raises(ValueError, match=r"params\[0\]: overlaps the memory of params\[1\]"):
        rf.step(params, [np.ones(6), None], state)
    params = [np.ones(5), np.ones(5)]
    rf.step(params, [np.ones(5), None], state := rf.init(params))
    before = repr((params, state))
    with pytest.raises(ValueError, match=r"overlaps the memory of"):
        rf.step(params, [np.ones(5), params[1]], state)
    assert repr((params, state)) == before
    assert np.all(block == 1)


@pytest.mark.parametrize(
    "number", ["1", b"1", True, np.True_, 1j, np.complex64(1), [1.0], (), {}, object, np.str_("1"), 10**400]
)
def test_what_is_no_number_for_a_gradient(number: Any) -> None:
    p, other = np.ones(()), np.ones(3)
    state = rf.init([other, {"x": p}])
    message = r"grads\[1\]\['x'\]: expected a NumPy array or a real number, got "
    with pytest.raises((TypeError, ValueError), match=message):
        rf.step([other, {"x": p}], [np.ones(3), {"x": number}], state)
    assert p == 1
    assert np.all(other == 1)
    assert state.steps == 0


@pytest.mark.parametrize("number", [1.0, np.float64(1), 1])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (0,), (3,)])
def test_numbers_are_no_gradients_of_arrays_with_axes(shape: Any, number: Any) -> None:
    p = np.ones(shape)
    state = rf.init(p)
    with pytest.raises(TypeError, match="grads: expected a NumPy array, got "):
        rf.step(p, number, state)
    assert np.all(p == 1)


def test_grads_may_share_memory_among_themselves_and_be_read_only() -> None:
    g = np.broadcast_to(np.ones(4), (2, 4))
    params = [np.zeros(4), np.zeros(4)]
    rf.step(params, [g[0], g[1]], rf.init(params))
    np.testing.assert_array_equal(params[0], params[1])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((1,), {}),
        ((1, 2, 3, 4), {}),
        ((1, 2), {"params": 3}),
        ((1, 2), {"gradients": 3}),
        ((), {}),
        ((1, 2, 3), {"a": 1}),
    ],
)
def test_wrong_arguments(arguments: Any, named: Any) -> None:
    with pytest.raises(TypeError, match="step: expected the arguments params, grads, state"):
        rf.step(*arguments, **named)


shared = [np.ones(2)]
INIT_REFUSALS = {
    "number": (1.0, TypeError, "params: expected a NumPy array, got float"),
    "None in a tree": ({"a": [None]}, TypeError, "params['a'][0]: expected a NumPy array, got NoneType"),
    "integers": (
        np.ones(3, int),
        TypeError,
        "params: expected float32, float64, float16 or bfloat16 in native byte order, got int64",
    ),
    "complex": (
        np.ones(3, complex),
        TypeError,
        "params: expected float32, float64, float16 or bfloat16 in native byte order, got complex128",
    ),
    "byte order": (
        np.ones(3, ">f8"),
        TypeError,
        "params: expected float32, float64, float16 or bfloat16 in native byte order, got >f8",
    ),
    "masked": (np.ma.ones(3), TypeError, "params: expected a NumPy array without a mask, got MaskedArray"),
    "slice": (
        [np.ones(6)[::2]],
        ValueError,
        "params[0]: expected dense memory, got float64 of shape (3,) with strides (16,)",
    ),
    "backwards": (np.ones(6)[::-1], ValueError, "params: expected dense memory"),
    "broadcast": (np.broadcast_to(np.ones(3), (2, 3)), ValueError, "params: expected dense memory"),
    "misaligned": (misaligned(3, np.float64), ValueError, "params: expected memory aligned to 8 bytes"),
    "read-only": (np.frombuffer(bytes(8)), ValueError, "params: expected a writeable array, got a read-only one"),
    "cycle": (CYCLE, ValueError, "params[0]: is the same object as params, expected a tree without cycles"),
    "one list twice": ({"a": shared, "b": shared}, ValueError, "params['b']: is the same object as params['a']"),
}


@pytest.mark.parametrize("case", INIT_REFUSALS)
def test_init_refuses(case: str) -> None:
    params, error, message = INIT_REFUSALS[case]
    with pytest.raises(error, match=re.escape(message)):
        rf.init(params)


def test_containers_that_lie_about_their_items() -> None:
    params = Liar([np.ones(5)])
    rf.step(params, Liar([np.ones(5)]), rf.init(params))
    assert np.all(list.__getitem__(params, 0) < 1)


@pytest.mark.parametrize("order", ["=", "<" if sys.byteorder == "little" else ">"])
def test_native_byte_order_however_it_is_spelled(order: Any) -> None:
    dtype = np.dtype(np.float32).newbyteorder(order)
    p = np.ones(3, dtype)
    rf.step(p, np.ones(3, dtype), rf.init(p))
    assert np.all(p < 1)


def test_a_value_that_cannot_be_shown_is_refused_all_the_same() -> None:
    with pytest.raises(ValueError, match="lr: expected a finite number of at least 0, got an object of type int"):
        rf.init(np.ones(3), lr=10**5000)


def test_interrupts_are_not_swallowed() -> None:
    class Interrupting:
        def __index__(self) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rf.set_num_threads(Interrupting())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        rf.init(np.ones(3)).steps = Interrupting()  # type: ignore[assignment]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupts_while_a_message_is_made_are_not_swallowed(error: type[BaseException]) -> None:
    class Hidden:
        def __repr__(self) -> str:
            raise error if armed else ValueError

    armed = True
    p = np.ones(3)
    state = rf.init(p)
    with pytest.raises(error):
        state.lr = Hidden()
    with pytest.raises(error):
        rf.init({Hidden(): [1]})
    armed = False
    with pytest.raises(TypeError, match=r"params\[an object of type Hidden\]\[0\]: expected a NumPy array, got int"):
        rf.init({Hidden(): [1]})
    assert state.lr == 0.01


def test_step_size_refuses_what_is_no_state() -> None:
    with pytest.raises(TypeError, match=r"state: expected a rmsprop_fast\.State, got dict"):
        rf.step_size({})  # type: ignore[arg-type]


def test_a_tree_that_would_take_for_ever_is_refused_at_once() -> None:
    tree: list[Any] = []
    for _ in range(100):
        tree = [tree, tree]
    with pytest.raises(ValueError, match="is the same object as"):
        rf.init(tree)


HYPER_REFUSALS: list[tuple[str, Any, type[Exception], str]] = [
    ("lr", "x", TypeError, "lr: expected a finite number of at least 0, got "),
    ("lr", None, TypeError, "lr: expected a finite number of at least 0, got "),
    ("lr", True, TypeError, "lr: expected a finite number of at least 0, got "),
    ("lr", 1j, TypeError, "lr: expected a finite number of at least 0, got "),
    ("lr", -0.1, ValueError, "lr: expected a finite number of at least 0, got -0.1"),
    ("lr", float("nan"), ValueError, "lr: expected a finite number of at least 0, got nan"),
    ("lr", float("inf"), ValueError, "lr: expected a finite number of at least 0, got inf"),
    ("lr", 1e39, ValueError, "lr: expected a finite number of at least 0, got 1e+39"),  # overflows in float32
    ("lr", np.ma.array(0.5, mask=True), TypeError, "lr: expected a finite number of at least 0, got masked"),
    (
        "lr",
        {"w": np.full((4, 3), 1e39), "b": [1, 1]},
        ValueError,
        "lr['w']: expected a finite number of at least 0, got inf",
    ),
    ("lr", 10**400, ValueError, "lr: expected a finite number of at least 0, got 1000"),
    ("lr", {"w": 1}, ValueError, "lr: expected a dict of 2 as in the state, got a dict of 1 without 'b'"),
    ("lr", {"w": 1, "b": 1}, TypeError, "lr['b']: expected a list of 2 as in the state, got int"),
    ("lr", {"w": -1, "b": [1, 1]}, ValueError, "lr['w']: expected a finite number of at least 0, got -1"),
    ("lr", {"w": "x", "b": [1, 1]}, TypeError, "lr['w']: expected a finite number of at least 0, got 'x'"),
    ("lr", np.ones(3), TypeError, "lr: expected a dict of 2 as in the state, got numpy.ndarray"),
    (
        "lr",
        {"w": np.ones(3), "b": [1, 1]},
        ValueError,
        "lr['w']: expected a number or real numbers of shape (4, 3), got float64 of shape (3,)",
    ),
    (
        "lr",
        {"w": np.ones((4, 3), complex), "b": [1, 1]},
        ValueError,
        "lr['w']: expected a number or real numbers of shape (4, 3), got complex128 of shape (4, 3)",
    ),
    (
        "lr",
        {"w": 1, "b": [np.full(5, np.nan), 1]},
        ValueError,
        "lr['b'][0]: expected a finite number of at least 0, got nan",
    ),
    (
        "lr",
        {"w": 1, "b": [1, np.array([1, -2])]},
        ValueError,
        "lr['b'][1]: expected a finite number of at least 0, got -2.0",
    ),
    ("rho", 1.5, ValueError, "rho: expected a number from 0 to 1, got 1.5"),
    ("rho", -1e-9, ValueError, "rho: expected a number from 0 to 1, got -1e-09"),
    ("rho", float("nan"), ValueError, "rho: expected a number from 0 to 1, got nan"),
    ("rho", [0.9], TypeError, "rho: expected a number from 0 to 1, got [0.9]"),
    ("eps", -1, ValueError, "eps: expected a finite number of at least 0, got -1"),
    ("eps", 1e300, ValueError, "eps: expected a finite number of at least 0, got 1e+300"),
    ("eps", np.ones(1), TypeError, "eps: expected a finite number of at least 0, got array([1.])"),
    ("momentum", 1.1, ValueError, "momentum: expected a number from 0 to 1, got 1.1"),
    (
        "momentum",
        np.nextafter(0, 1),
        ValueError,
        "momentum: expected 0, as init made no momentum_buffer with momentum=0, got",
    ),
    ("nesterov", 1, TypeError, "nesterov: expected True or False, got 1"),
    ("nesterov", True, ValueError, "nesterov: expected momentum above 0 with nesterov=True, got momentum=0.0"),
    ("lr_in_momentum", "yes", TypeError, "lr_in_momentum: expected True or False, got 'yes'"),
    ("eps_inside_sqrt", None, TypeError, "eps_inside_sqrt: expected True or False, got None"),
    ("bias_correction", 0.5, TypeError, "bias_correction: expected True or False, got 0.5"),
    ("weight_decay", -1, ValueError, "weight_decay: expected a finite number of at least 0, got -1"),
    ("weight_decay", 1e39, ValueError, "weight_decay: expected a finite number of at least 0, got 1e+39"),
    ("decoupled", np.ones(1, bool), TypeError, "decoupled: expected True or False, got array([ True])"),
    ("maximize", [], TypeError, "maximize: expected True or False, got []"),
    ("grad_scale", 0, ValueError, "grad_scale: expected a finite number above 0 whose reciprocal is finite, got 0"),
    ("grad_scale", 1e-39, ValueError, "grad_scale: expected a finite number above 0 whose reciprocal is finite, got"),
    ("grad_scale", float("inf"), ValueError, "grad_scale: expected a finite number above 0 whose reciprocal is"),
    (
        "grad_scale",
        None,
        TypeError,
        "grad_scale: expected a finite number above 0 whose reciprocal is finite, got None",
    ),
    ("clip_value", 0, ValueError, "clip_value: expected None or a finite number above 0, got 0"),
    ("clip_value", 1e-50, ValueError, "clip_value: expected None or a finite number above 0, got 1e-50"),
    ("clip_norm", float("nan"), ValueError, "clip_norm: expected None or a finite number above 0, got nan"),
    ("clip_norm", "1", TypeError, "clip_norm: expected None or a finite number above 0, got '1'"),
    (
        "clip_global_norm",
        float("inf"),
        ValueError,
        "clip_global_norm: expected None or a finite number above 0, got inf",
    ),
    ("skip_nonfinite", 0, TypeError, "skip_nonfinite: expected True or False, got 0"),
    ("centered", True, AttributeError, "set"),
    ("initial_s", 1, AttributeError, "set"),
    ("grad_norm", 1, AttributeError, "set"),
    ("skipped", -1, ValueError, "skipped: expected an integer from 0 to 2**63 - 1, got -1"),
    ("steps", -1, ValueError, "steps: expected an integer from 0 to 2**63 - 1, got -1"),
    ("steps", 2**63, ValueError, "steps: expected an integer from 0 to 2**63 - 1, got 9223372036854775808"),
    ("steps", 1.5, ValueError, "steps: expected an integer from 0 to 2**63 - 1, got 1.5"),
    ("learning_rate", 1, AttributeError, "learning_rate"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), HYPER_REFUSALS)
def test_hyper_parameters_out_of_range(name: str, value: Any, error: type[Exception], message: str) -> None:
    call = Call()
    before = call.everything()
    with pytest.raises(error, match=re.escape(message)):
        setattr(call.state, name, value)
    assert call.everything() == before
    if name in inspect.signature(rf.init).parameters and "init made no" not in message and error is not AttributeError:
        with pytest.raises(error, match=re.escape(message)):
            rf.init(call.params, **{name: value})


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"nesterov": True}, "nesterov: expected momentum above 0 with nesterov=True, got momentum=0.0"),
    (
        {"bias_correction": True, "initial_s": 1},
        "bias_correction: expected initial_s=0 with bias_correction=True, got initial_s=1.0",
    ),
    (
        {"bias_correction": True, "rho": 1},
        "bias_correction: expected rho below 1 with bias_correction=True, got rho=1.0",
    ),
    (
        {"clip_value": 1, "clip_norm": 2},
        "clip_value, clip_norm, clip_global_norm: expected at most one of them, got clip_value=1.0 and clip_norm=2.0",
    ),
    ({"clip_norm": 1, "clip_global_norm": 2}, "got clip_norm=1.0 and clip_global_norm=2.0"),
    ({"clip_value": 1, "clip_global_norm": 2}, "got clip_value=1.0 and clip_global_norm=2.0"),
]


@pytest.mark.parametrize(("hyper", "message"), CONTRADICTIONS, ids=[", ".join(hyper) for hyper, _ in CONTRADICTIONS])
def test_hyper_parameters_that_contradict_each_other(hyper: dict[str, Any], message: str) -> None:
    p = np.ones(3)
    with pytest.raises(ValueError, match=re.escape(message)):
        rf.init(p, **hyper)
    if "initial_s" in hyper:
        state = rf.init(p, initial_s=hyper.pop("initial_s"))
    else:
        state = rf.init(p, momentum=0.5)
        if "nesterov" in hyper:
            state.nesterov = True
            hyper, message = {"momentum": 0}, message
    before = repr(state)
    *first, (name, value) = hyper.items()
    for earlier, number in first:
        setattr(state, earlier, number)
        before = repr(state)
    with pytest.raises(ValueError, match=re.escape(message)):
        setattr(state, name, value)
    assert repr(state) == before


@pytest.mark.parametrize(
    ("hyper", "error", "message"),
    [
        ({"initial_s": -1}, ValueError, "initial_s: expected a finite number of at least 0, got -1"),
        ({"initial_s": 1e39}, ValueError, "initial_s: expected a finite number of at least 0, got 1e+39"),
        ({"initial_s": None}, TypeError, "initial_s: expected a finite number of at least 0, got None"),
        ({"centered": "yes"}, TypeError, "centered: expected True or False, got 'yes'"),
        ({"momentum": 0.5, "nesterov": 1}, TypeError, "nesterov: expected True or False, got 1"),
    ],
)
def test_what_only_init_decides(hyper: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        rf.init(np.ones(3, np.float32), **hyper)


def test_norms_are_numbers_of_type_double() -> None:
    assert rf.init(np.ones(3, np.float32), clip_norm=1e39).clip_norm == 1e39


def test_unknown_hyper_parameters() -> None:
    with pytest.raises(TypeError, match=r"init: expected hyper-parameters among lr, rho, eps, .*; got 'learning_rate'"):
        rf.init(np.ones(3), learning_rate=0.1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("arguments", "named", "got"),
    [
        ((np.ones(3), 0.1), {}, "2 by position"),
        ((), {}, "0 by position"),
        ((), {"lr": 0.1}, "0 by position"),
        ((np.ones(3),), {"params": np.ones(3)}, "1 by position and params by name"),
    ],
)
def test_wrong_arguments_of_init(arguments: Any, named: Any, got: str) -> None:
    message = f"init: expected params, and hyper-parameters by name, got {got}"
    with pytest.raises(TypeError, match=f"^{message}$"):
        rf.init(*arguments, **named)


KEPT_REFUSALS: list[tuple[Any, type[Exception], str]] = [
    (1, TypeError, ": expected a dict of 2 as in the state, got int"),
    (None, TypeError, ": expected a dict of 2 as in the state, got NoneType"),
    ({"w": np.ones((4, 3))}, ValueError, ": expected a dict of 2 as in the state, got a dict of 1 without 'b'"),
    ({"w": np.ones((4, 3)), "b": 1}, TypeError, "['b']: expected a list of 2 as in the state, got int"),
    (
        {"w": np.ones((4, 3)), "b": [np.ones(5), np.ones(3)]},
        ValueError,
        "['b'][1]: expected real numbers of shape (2,), got float64 of shape (3,)",
    ),
    (
        {"w": np.ones((4, 3)), "b": [np.ones(5), np.ones(2, complex)]},
        ValueError,
        "['b'][1]: expected real numbers of shape (2,), got complex128 of shape (2,)",
    ),
    ({"w": np.ones((4, 3)), "b": [np.ones(5), 1.0]}, TypeError, "['b'][1]: expected a NumPy array, got float"),
    (
        {"w": np.ones((4, 3)), "b": [np.ones(5), np.ma.ones(2)]},
        TypeError,
        "['b'][1]: expected a NumPy array without a mask, got MaskedArray",
    ),
    (
        {"w": np.ones((4, 3)), "b": [np.ones(5), [1, 1]]},
        TypeError,
        "['b'][1]: expected a NumPy array, got list",
    ),
]
NEGATIVE = {"w": np.ones((4, 3)), "b": [np.ones(5), np.array([1, -1e-9])]}


@pytest.mark.parametrize("name", ["s", "variance", "grad_avg", "momentum_buffer"])
@pytest.mark.parametrize(("value", "error", "message"), KEPT_REFUSALS)
def test_values_that_are_refused_change_nothing_kept(
    name: str, value: Any, error: type[Exception], message: str
) -> None:
    call = Call()
    state: Any = rf.init(call.params, centered=name != "s", momentum=0.5)
    rf.step(call.params, call.grads, state)
    before = repr(getattr(state, name))
    with pytest.raises(error, match=re.escape(f"state.{name}{message}")):
        setattr(state, name, value)
    assert repr(getattr(state, name)) == before
    if name in ("s", "variance"):
        message = f"state.{name}['b'][1]: expected a number of at least 0, got -9.999999717180685e-10"
        with pytest.raises(ValueError, match=re.escape(message)):
            setattr(state, name, NEGATIVE)
        assert repr(getattr(state, name)) == before
    else:
        setattr(state, name, NEGATIVE)


def test_values_for_arrays_that_cannot_be_written_change_nothing_kept() -> None:
    state: Any = rf.init([np.ones(2), np.ones(2)])
    state.s[1].flags.writeable = False
    with pytest.raises(ValueError, match=r"state\.s\[1\]: expected a writeable array, got a read-only one"):
        state.s = [np.ones(2), np.ones(2)]
    assert np.all(state.s[0] == 0)


def test_values_of_what_is_not_kept_are_refused() -> None:
    state: Any = rf.init(np.ones(3))
    for name in ("variance", "grad_avg", "momentum_buffer"):
        message = f"state.{name}: expected None, as init made no such arrays, got numpy.ndarray"
        with pytest.raises(ValueError, match=re.escape(message)):
            setattr(state, name, np.ones(3))
        assert getattr(state, name) is None
    state = rf.init(np.ones(3), centered=True)
    with pytest.raises(ValueError, match=r"state\.s: expected variance and grad_avg to be assigned in its place"):
        state.s = np.ones(3)
    assert np.all(state.s == 0)


@pytest.mark.parametrize("value", ["x", None, True, np.True_, 1j, np.complex64(1), [1.0], {}, np.array([1.0])])
def test_what_is_no_number_for_an_array_without_axes(value: Any) -> None:
    state: Any = rf.init(np.ones(()))
    with pytest.raises(
        (TypeError, ValueError),
        match=r"state\.s: expected (a NumPy array or a real number|real numbers of shape \(\)), got ",
    ):
        state.s = value
    with pytest.raises(
        ValueError, match=r"state\.s: expected a NumPy array or a real number, got an object of type int"
    ):
        state.s = 10**5000
    assert state.s == 0


@pytest.mark.parametrize("name", ["variance", "grad_avg", "momentum_buffer"])
def test_every_array_of_the_state_is_checked(name: str) -> None:
    p, g = [np.ones(4, np.float32), np.ones(8, np.float32)], [np.ones(4, np.float32), np.ones(8, np.float32)]
    state = rf.init(p, centered=True, momentum=0.9)
    kept = getattr(state, name)[1]
    arrays = [*p, *state.variance, *state.grad_avg, *state.momentum_buffer]
    before = [array.tobytes() for array in arrays]
    with pytest.raises(ValueError, match=r"overlaps the memory of .*expected arrays apart"):
        rf.step(p, [g[0], kept], state)
    kept.flags.writeable = False
    with pytest.raises(
        ValueError, match=re.escape(f"state.{name}[1]: expected a writeable array, got a read-only one")
    ):
        rf.step(p, g, state)
    assert [array.tobytes() for array in arrays] == before
    assert state.steps == 0


def test_the_mean_of_a_centered_state_cannot_be_written() -> None:
    state = rf.init(np.ones(3), centered=True)
    with pytest.raises(ValueError, match="read-only"):
        state.s[...] = 1


BFLOAT16: Any = ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("params", "grads"),
    [
        (np.float64, np.float16),
        (np.float64, BFLOAT16),
        (np.float64, np.float32),
        (np.float32, np.float64),
        (np.float16, np.float64),
        (BFLOAT16, np.float64),
        (np.float16, np.uint16),
        (BFLOAT16, ml_dtypes.float8_e5m2),
    ],
)
def test_gradients_of_another_type(params: Any, grads: Any) -> None:
    p = np.ones(3, params)
    state = rf.init(p)
    expected = "float64" if params is np.float64 else "float32 or float16 or bfloat16"
    message = f"grads: expected {expected} of shape (3,), got {np.dtype(grads)} of shape (3,)"
    with pytest.raises(TypeError, match=re.escape(message)):
        rf.step(p, np.ones(3, grads), state)
    assert np.all(p == 1)


def test_halves_that_are_not_aligned_or_native() -> None:
    with pytest.raises(ValueError, match="params: expected memory aligned to 2 bytes"):
        rf.init(misaligned(3, np.float16))
    with pytest.raises(TypeError, match="params: expected float32, float64, float16 or bfloat16 in native byte order"):
        rf.init(np.ones(3, np.dtype(np.float16).newbyteorder()))


def test_eps_and_lr_need_fit_only_the_types_in_use() -> None:
    state = rf.init(np.ones(3), lr=1e300, eps=1e300)
    assert (state.lr, state.eps) == (1e300, 1e300)


def test_states_come_from_init_alone() -> None:
    makers: list[Any] = [rf.State, lambda: rf.State.__new__(rf.State), lambda: object.__new__(rf.State)]
    for make in makers:
        with pytest.raises(TypeError):
            make()
    with pytest.raises(TypeError):
        type("Sub", (rf.State,), {})


def test_the_class_of_an_object_stays() -> None:
    class Other:
        pass

    state: Any = rf.init(np.ones(3))
    for other in (_core.ParamGroups, Other, type(lambda: None)):
        for assign in (setattr, object.__setattr__):
            with pytest.raises(TypeError):
                assign(state, "__class__", other)
        with pytest.raises(TypeError):
            object.__dict__["__class__"].__set__(state, other)
    made: Any = Other()
    for theirs in (rf.State, _core.ParamGroups):
        with pytest.raises(TypeError):
            made.__class__ = theirs
        for assign in (setattr, type.__setattr__):
            for name in ("step", "__init__", "__bases__"):
                with pytest.raises(TypeError):
                    assign(theirs, name, (Other,))
    assert type(state) is rf.State
    assert state.steps == 0


def test_a_state_in_use_by_another_thread_is_refused() -> None:
    size = 2_000_000
    p, g = np.ones(size, np.float32), np.ones(size, np.float32)
    state = rf.init(p)
    stop = threading.Event()
    finished = [0]

    def work() -> None:
        while not stop.is_set():
            with contextlib.suppress(RuntimeError):
                rf.step(p, g, state)
                finished[0] += 1
            time.sleep(0.001)  # leave the other thread a turn

    worker = threading.Thread(target=work)
    worker.start()
    messages: set[str] = set()
    mine, deadline = 0, time.monotonic() + 30
    while not (messages and mine) and time.monotonic() < deadline:
        try:
            state.lr = 0.01
            rf.step(p, g, state)
            mine += 1
        except RuntimeError as error:
            messages.add(str(error))
    stop.set()
    worker.join()
    (message,) = messages
    assert message.startswith("state: expected one that is not in use, got one that another step is working on")
    assert mine
    assert state.steps == mine + finished[0]


def test_arrays_taken_out_of_their_container_during_a_step_stay_alive() -> None:
    size = 2_000_000
    state = rf.init([np.ones(size, np.float32)])
    params, grads = [np.ones(size, np.float32)], [np.ones(size, np.float32)]

    def steps() -> None:
        for _ in range(20):
            rf.step(params, grads, state)

    worker = threading.Thread(target=steps)
    worker.start()
    while worker.is_alive():
        params[0], grads[0] = np.ones(size, np.float32), np.ones(size, np.float32)
    worker.join()
    assert state.steps == 20


@pytest.mark.parametrize("name", ["step", "s", "lr", "steps"])
def test_keys_that_compare_in_python_cannot_step_in_between(name: str) -> None:
    class Key:
        armed = False

        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            if Key.armed:
                Key.armed = False
                if name == "step":
                    rf.step(params, grads, state)
                else:
                    setattr(state, name, 5 if name == "steps" else {Key(): np.full(3, 5)})
            return isinstance(other, Key)

    params, grads = {Key(): np.ones(3)}, {Key(): np.ones(3)}
    state: Any = rf.init(params)
    before = repr((state, state.s, state.lr))
    Key.armed = True
    with pytest.raises(RuntimeError, match="expected one that is not in use"):
        rf.step(params, grads, state)
    assert repr((state, state.s, state.lr)) == before
    rf.step(params, grads, state)
    assert state.steps == 1
    Key.armed = True
    with pytest.raises(RuntimeError, match="expected one that is not in use"):
        state.s = {Key(): np.ones(3)}
    assert np.all(next(iter(state.s.values())) < 1)


@pytest.mark.parametrize("count", [0, -1, 1025, 2**70, 1.5, "2"])
def test_thread_counts_out_of_range(count: Any) -> None:
    before = rf.get_num_threads()
    with pytest.raises(ValueError, match="num_threads: expected None or an integer from 1 to 1024, got"):
        rf.set_num_threads(count)
    assert rf.get_num_threads() == before


@pytest.mark.parametrize("name", ["", "AVX2", "mmx", "kernel\0"])
def test_unknown_kernels(name: str) -> None:
    before = rf.get_kernel()
    with pytest.raises(ValueError, match="kernel: expected one of "):
        rf.set_kernel(name)
    assert rf.get_kernel() == before
