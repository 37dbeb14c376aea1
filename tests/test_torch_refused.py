"""RMSprop for PyTorch: what is refused, before anything changes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rmsprop_fast.torch import RMSprop  # noqa: E402
from torch_oracle import Oracle, everything  # noqa: E402
from torch_params import Tensor, misaligned, numbers, parameter, renew  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable


class Wrapper(torch.Tensor):  # type: ignore[misc, name-defined]
    """Has no memory: passes all on to another tensor."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Tensor:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inner = [arg.inner if isinstance(arg, Wrapper) else arg for arg in args]
        result = function(*inner, **(kwargs or {}))
        return Wrapper(result) if isinstance(result, torch.Tensor) else result


def with_gradient(values: Tensor, grad: Tensor | None = None, data: Tensor | None = None) -> Tensor:
    """Return a parameter of these values, or of `data`, with this gradient, even one that does not fit."""
    param = values.detach()
    if param.dtype.is_floating_point or param.dtype.is_complex:
        param.requires_grad_()
        param.grad_dtype = None
    param.grad = values.detach().clone() if grad is None else grad
    if data is not None:
        param.data = data
    return param


def fake() -> Tensor:
    with torch._subclasses.FakeTensorMode():
        return parameter(3)


HAS_NO_MEMORY = "expected a tensor with memory of its own, got a "
UNSUPPORTED = "expected one of float32, float64, float16, bfloat16, complex64, complex128, got "
ones = torch.ones
REFUSED: dict[str, tuple[Callable[[], Tensor], type[Exception], str]] = {
    "sparse parameter": (
        lambda: with_gradient(torch.eye(3).to_sparse()),
        TypeError,
        ": expected a dense tensor, got one of layout torch.sparse_coo",
    ),
    "gradient of another dtype": (
        lambda: with_gradient(ones(3), ones(3, dtype=torch.float64)),
        TypeError,
        ".grad: expected torch.float32 or torch.float16 or torch.bfloat16, got torch.float64",
    ),
    "float64 gradient of a half": (
        lambda: with_gradient(ones(3, dtype=torch.float16), ones(3, dtype=torch.float64)),
        TypeError,
        ".grad: expected torch.float32 or torch.float16 or torch.bfloat16, got torch.float64",
    ),
    "float32 gradient of float64": (
        lambda: with_gradient(ones(3, dtype=torch.float64), ones(3)),
        TypeError,
        ".grad: expected torch.float64, got torch.float32",
    ),
    "complex gradient": (
        lambda: with_gradient(ones(3), ones(3, dtype=torch.complex64)),
        ValueError,
        r".grad: expected shape \(3,\), got \(3, 2\)",
    ),
    "gradient of another shape": (
        lambda: with_gradient(ones(3), ones(3), data=ones(2)),
        ValueError,
        r".grad: expected shape \(2,\), got \(3,\)",
    ),
    "meta": (
        lambda: with_gradient(ones(3, device="meta")),
        TypeError,
        ": expected a tensor on the CPU, got one on meta",
    ),
    "fake": (fake, TypeError, f": {HAS_NO_MEMORY}"),
    "wrapper": (lambda: with_gradient(Wrapper(ones(3)), Wrapper(ones(3))), TypeError, f": {HAS_NO_MEMORY}"),
    "wrapped gradient": (lambda: with_gradient(ones(3), Wrapper(ones(3))), TypeError, f".grad: {HAS_NO_MEMORY}"),
    "conjugate view": (
        lambda: with_gradient(torch.randn(3, dtype=torch.complex64).conj()),
        TypeError,
        ": expected numbers as they are in memory, got a conjugated or negated view",
    ),
    "negative view": (
        lambda: with_gradient(torch._neg_view(ones(3))),
        TypeError,
        ": expected numbers as they are in memory, got a conjugated or negated view",
    ),
    "int32": (lambda: with_gradient(ones(3, dtype=torch.int32)), TypeError, f": {UNSUPPORTED}int32"),
    "float8": (
        lambda: with_gradient(ones(3).to(torch.float8_e4m3fn)),
        TypeError,
        f": {UNSUPPORTED}float8_e4m3fn",
    ),
    "complex32": (lambda: with_gradient(ones(3, dtype=torch.complex32)), TypeError, f": {UNSUPPORTED}complex32"),
    "expanded": (
        lambda: with_gradient(torch.zeros(3, 1).expand(3, 4)),
        ValueError,
        r": expected elements apart from each other, got shape \(3, 4\) with strides \(1, 0\)",
    ),
    "overlapping itself": (
        lambda: with_gradient(torch.zeros(4).as_strided((3, 2), (1, 1))),
        ValueError,
        r": expected elements apart from each other, got shape \(3, 2\) with strides \(1, 1\)",
    ),
    "misaligned": (lambda: with_gradient(misaligned(ones(3))), ValueError, ": expected memory aligned to 4 bytes"),
}


# PyTorch says of its newer dtypes that they are new.
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize("named", [False, True], ids=["by place", "by name"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_stepped_is_refused_before_anything_changes(case: str, named: bool) -> None:
    make, error, message = REFUSED[case]
    fine, idle, bad = [parameter(5), parameter(2, 3)], torch.zeros(3), make()
    fine[1].data = torch.ones(2, 5)[:, 1:4]
    optimizer = RMSprop(list(zip("ab", fine, strict=True)) if named else fine, momentum=0.9)
    optimizer.step()
    optimizer.add_param_group({"params": [("idle", idle), ("the bad one", bad)] if named else [idle, bad]})
    before = everything(optimizer, *fine)
    with pytest.raises(error, match=("^the bad one" if named else r"^param_groups\[1\]\['params'\]\[1\]") + message):
        optimizer.step()
    assert everything(optimizer, *fine) == before
    bad.grad = None
    optimizer.step()
    assert optimizer.state[fine[1]]["step"] == 2


def test_a_refused_step_leaves_no_trace_in_the_state() -> None:
    """Neither zeros for new parameters nor a variance for those that were not centered."""
    old, new, bad = parameter(3), parameter(4), parameter(2)
    optimizer = RMSprop([old])
    optimizer.step()
    before = everything(optimizer, old)
    optimizer.param_groups[0]["params"] += [new, bad]
    optimizer.param_groups[0]["centered"] = True
    bad.grad = torch.sparse_coo_tensor(torch.tensor([[2]]), torch.ones(1), (2,), check_invariants=False)
    with pytest.raises(ValueError, match="expected indices from 0 to 1 for axis 0, got 2"):
        optimizer.step()
    assert list(optimizer.state) == [old]
    assert everything(optimizer, old) == before


def test_gradients_inside_of_vmap_are_refused() -> None:
    param = ones(3, requires_grad=True)
    optimizer = RMSprop([("weight", param)])

    def attempt(grad: Tensor) -> Tensor:
        param.grad = grad
        with pytest.raises(TypeError, match=f"^weight.grad: {HAS_NO_MEMORY}"):
            optimizer.step()
        return grad

    torch.vmap(attempt)(ones(2, 3))
    assert param.tolist() == [1, 1, 1]


def test_what_is_no_tensor_is_refused() -> None:
    fine = parameter(3)
    optimizer = RMSprop([fine, parameter(2)])
    before = everything(optimizer, fine)
    optimizer.param_groups[0]["params"][1] = np.ones(2)
    with pytest.raises(
        TypeError, match=r"^param_groups\[0\]\['params'\]\[1\]: expected a torch.Tensor, got numpy.ndarray"
    ):
        optimizer.step()
    assert everything(optimizer, fine) == before


def overlapping_params() -> list[Tensor]:
    memory = torch.zeros(5)
    return [with_gradient(memory[:3]), with_gradient(memory[2:])]


def params_in_gaps_of_each_other() -> list[Tensor]:
    memory = torch.zeros(5, 2)
    return [with_gradient(memory[:, 0]), with_gradient(memory[:, 1])]


def param_in_a_gap() -> list[Tensor]:
    memory = torch.zeros(9)
    return [with_gradient(memory[::4]), with_gradient(memory[1:4])]


def param_of_an_element_with_gaps() -> list[Tensor]:
    memory = torch.zeros(9)
    return [with_gradient(memory[8:]), with_gradient(memory[::4])]


def gradient_in_a_gap() -> list[Tensor]:
    memory = torch.zeros(9)
    return [with_gradient(torch.zeros(3), memory[1:4]), with_gradient(memory[::4])]


def gradient_in_a_parameter() -> list[Tensor]:
    first, second = parameter(3), parameter(3)
    first.grad = second.detach()
    return [first, second]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (overlapping_params, "^a: overlaps the memory of b, expected"),
        (params_in_gaps_of_each_other, "^a: overlaps the memory of b, expected"),
        (param_in_a_gap, "^a: overlaps the memory of b, expected"),
        (param_of_an_element_with_gaps, "^b: overlaps the memory of a, expected"),
        (gradient_in_a_gap, "^b: overlaps the memory of a.grad, expected"),
        (gradient_in_a_parameter, "^a.grad: overlaps the memory of b, expected"),
    ],
)
def test_tensors_that_overlap_are_refused(make: Callable[[], list[Tensor]], message: str) -> None:
    params = make()
    optimizer = RMSprop([{"params": [("a", params[0])]}, {"params": [("b", params[1])]}])
    before = [numbers(param).tobytes() for param in params]
    for _ in range(2):  # the second time as well
        with pytest.raises(ValueError, match=message):
            optimizer.step()
    assert [numbers(param).tobytes() for param in params] == before


def test_a_parameter_that_is_there_twice_is_refused() -> None:
    param = parameter(3)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = RMSprop([param, param])
    before = numbers(param).tobytes()
    with pytest.raises(ValueError, match=r"\['params'\]\[0\]: overlaps the memory of .*\['params'\]\[1\], exp"):
        optimizer.step()
    assert numbers(param).tobytes() == before


def test_state_that_does_not_fit_is_refused() -> None:
    params = [parameter(3), parameter(2)]
    optimizer = RMSprop([("a", params[0]), ("b", params[1])], momentum=0.9)
    optimizer.step()
    before = everything(optimizer, *params)
    state = optimizer.state[params[1]]
    whole = dict(state)
    for change, message in (
        ({"square_avg": torch.zeros(3)}, r"state of b\['square_avg'\]: expected shape \(2,\), got \(3,\)"),
        ({"momentum_buffer": state["square_avg"]}, "^the state of b: overlaps the memory of the state of b"),
        ({"momentum_buffer": params[0].detach()[:2]}, "^.*overlaps the memory of .*, expected tensors apart"),
    ):
        state.update(change)
        with pytest.raises(ValueError, match=message):
            optimizer.step()
        state.update(whole)
        assert everything(optimizer, *params) == before
    optimizer.state[params[1]] = 7
    with pytest.raises(TypeError, match=r"^the state of b: expected a dict, got 7"):
        optimizer.step()
    optimizer.state[params[1]] = state
    with pytest.raises(TypeError, match=r"^state\[1\]: expected a dict, got 7"):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {1: 7}})
    assert everything(optimizer, *params) == before
    optimizer.step()


class Meddler(torch.Tensor):  # type: ignore[misc, name-defined]
    """Runs `meddle` when Python code of a step looks at it."""

    meddle: Callable[[], None] | None = None

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        meddle, Meddler.meddle = Meddler.meddle, None
        if meddle is not None:
            meddle()
        return super().__torch_function__(function, types, args, kwargs)


@pytest.mark.parametrize("threaded", [False, True], ids=["nested", "from another thread"])
def test_a_second_step_at_the_same_time_is_refused(threaded: bool) -> None:
    param = parameter(3).detach().as_subclass(Meddler).requires_grad_()
    renew(param)
    optimizer = RMSprop([param])
    oracle = Oracle(optimizer)
    oracle.step()
    refused: list[str] = []

    def second_step() -> None:
        with pytest.raises(RuntimeError) as error:
            optimizer.step()
        refused.append(str(error.value))

    def in_a_thread() -> None:
        thread = threading.Thread(target=second_step)
        thread.start()
        thread.join()

    Meddler.meddle = in_a_thread if threaded else second_step
    optimizer.step()
    assert len(refused) == 1
    assert refused[0].startswith("optimizer: expected one that is not in use, got one that another step is working on")
    oracle.check()
    oracle.check_step()
