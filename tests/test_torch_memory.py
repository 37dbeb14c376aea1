"""RMSprop for PyTorch: parameters, gradients and state that lie in memory in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bits import same_bits

torch = pytest.importorskip("torch")

from rmsprop_fast.torch import RMSprop  # noqa: E402
from torch_oracle import ALL_STATE, Oracle  # noqa: E402
from torch_params import DTYPES, Options, Tensor, misaligned, numbers, parameter  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

CASES_OF_STATE: list[Options] = [{}, {"momentum": 0.9}, {"centered": True}, ALL_STATE]
SHAPE = (2, 3, 4, 5)


def in_order(tensor: Tensor, *order: int) -> Tensor:
    """Return the same numbers in other memory, in which the axes have this order."""
    back = [order.index(axis) for axis in range(len(order))]
    return tensor.permute(order).contiguous().permute(back)


def sliced(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, tensor], dim=-1)[..., 1]


def negated(tensor: Tensor) -> Tensor:
    return torch._neg_view(-tensor)


def imaginary(tensor: Tensor) -> Tensor:
    """Return the same numbers as every second one in memory, with a sign that is still to be applied."""
    return torch.complex(tensor, -tensor).conj().imag


DENSE: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: in_order(x, 0, 1, 2, 3),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: in_order(x, 3, 0, 2, 1),
    "transposed": lambda x: in_order(x, 1, 0, 2, 3),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    **DENSE,
    "expanded": lambda x: x[:, :1].expand(x.shape),
    "sliced": sliced,
    "misaligned": misaligned,
    "negated": negated,
    "imaginary": imaginary,
    "negated and permuted": lambda x: negated(in_order(x, 3, 0, 2, 1)),
}


@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("layout", DENSE)
def test_gradients_of_any_layout_give_the_right_numbers(layout: str, grad_layout: str) -> None:
    """Twice in one layout, then in another one at the same place of the group."""
    param = DENSE[layout](torch.randn(SHAPE)).requires_grad_()
    optimizer = RMSprop([parameter(3), param], max_grad_norm=1, **ALL_STATE)
    oracle = Oracle(optimizer)
    for make in (LAYOUTS[grad_layout], LAYOUTS[grad_layout], DENSE["permuted"], LAYOUTS[grad_layout]):
        param.grad = make(torch.randn(SHAPE))
        oracle.check_step()
    assert optimizer.state[param]["variance"].stride() == param.stride()


@pytest.mark.parametrize("make", [negated, imaginary], ids=["negated", "imaginary"])
@pytest.mark.parametrize("shape", [(), (1,), (3,)], ids=str)
def test_lazy_signs_count_in_every_step(make: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    """Also where one number lies at the place of the last gradient, so that nothing but the sign has changed."""
    param = torch.zeros(shape, requires_grad=True)
    optimizer = RMSprop([param], momentum=0.9)
    oracle = Oracle(optimizer)
    memory = torch.ones(shape)
    for grad in (memory, memory, torch._neg_view(memory), make(memory), memory, make(-memory)):
        param.grad = grad
        oracle.check_step()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("conjugated", [False, True])
def test_complex_numbers_are_pairs_of_real_ones(dtype: Any, conjugated: bool) -> None:
    param, pairs = parameter(4, 3, dtype=dtype), parameter(4, 3, 2, dtype=torch.empty(0, dtype=dtype).real.dtype)
    pairs.data.copy_(torch.view_as_real(param.detach()))
    optimizer, theirs = RMSprop([param], initial_s=1, **ALL_STATE), RMSprop([pairs], initial_s=1, **ALL_STATE)
    oracle, their_oracle = Oracle(optimizer), Oracle(theirs)
    for _ in range(3):
        grad = torch.randn(4, 3, dtype=dtype)
        param.grad = grad.conj() if conjugated else grad
        assert param.grad.is_conj() == conjugated
        pairs.grad = torch.view_as_real(param.grad.resolve_conj())
        oracle.check_step()
        their_oracle.check_step()
        assert same_bits(numbers(param), numbers(pairs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_halves_for_float32(dtype: Any) -> None:
    param = torch.randn(40, requires_grad=True)
    param.grad_dtype = dtype
    oracle = Oracle(RMSprop([param], max_grad_norm=3, **ALL_STATE))
    for layout in (torch.clone, torch.clone, sliced, negated):
        param.grad = layout(torch.randn(40, dtype=dtype))
        oracle.check_step()


@st.composite
def any_memory(draw: st.DrawFn) -> tuple[Tensor, list[Tensor]]:
    """Draw a parameter, perhaps with gaps, and gradients of two steps, each with its own memory."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = draw(st.sampled_from(DTYPES))

    def ordered() -> Tensor:
        return in_order(torch.randn(shape, dtype=dtype), *draw(st.permutations(range(len(shape)))))

    def gradient() -> Tensor:
        tensor = ordered()
        for axis, length in enumerate(shape):
            if length and draw(st.integers(0, 3)) == 0:
                tensor = tensor.narrow(axis, 0, 1).expand(shape)
        if tensor.numel() and draw(st.booleans()):
            tensor = draw(st.sampled_from([sliced, misaligned, negated, torch.conj]))(tensor)
        return tensor

    torch.manual_seed(draw(st.integers(0, 9)))
    param = ordered()
    if draw(st.integers(0, 3)) == 0:
        param = sliced(param)
    return param.requires_grad_(), [gradient(), gradient()]


@given(any_memory(), st.sampled_from(CASES_OF_STATE), st.booleans())
def test_any_memory_gives_the_same_bytes(memory: tuple[Tensor, list[Tensor]], options: Options, clip: bool) -> None:
    param, grads = memory
    oracle = Oracle(RMSprop([param], max_grad_norm=1 if clip else None, **options))
    for grad in grads:
        param.grad = grad
        oracle.check_step()


GAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": sliced,
    "permuted": lambda x: sliced(in_order(x, 3, 0, 2, 1)),
    "rows": lambda x: torch.cat([x, x])[: len(x), ..., :4],
    "every second": lambda x: x[:, ::2],
    "misaligned": lambda x: misaligned(torch.stack([x, x], dim=-1))[..., 0],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", GAPS)
def test_parameters_with_gaps(layout: str, dtype: Any) -> None:
    """What lies in the gaps stays as it is, and autograd learns of each step that is taken."""
    param = GAPS[layout](torch.randn(SHAPE, dtype=dtype)).requires_grad_()
    in_gaps = torch.empty(0, dtype=dtype).set_(param.data.untyped_storage()) if layout != "misaligned" else None
    places = torch.arange(0 if in_gaps is None else in_gaps.numel())
    if in_gaps is not None:
        of_param = places.as_strided(param.shape, param.stride(), param.storage_offset())
        in_gaps = in_gaps[~torch.isin(places, of_param)].clone()
        assert in_gaps.numel() >= param.numel() / 4
    optimizer = RMSprop([parameter(3), param], max_grad_norm=1, skip_nonfinite=True, **ALL_STATE)
    oracle = Oracle(optimizer)
    for make in (torch.clone, DENSE["permuted"], sliced):
        param.grad = make(torch.randn(param.shape, dtype=dtype))
        version = param._version
        oracle.check_step()
        assert param._version > version
    param.grad = torch.full(param.shape, float("nan"), dtype=dtype)
    version = param._version
    oracle.check_step()
    assert (optimizer.skipped, param._version) == (1, version)
    if in_gaps is not None:
        now = torch.empty(0, dtype=dtype).set_(param.data.untyped_storage())
        assert torch.equal(now[~torch.isin(places, of_param)], in_gaps)
    assert optimizer.state[param]["variance"].numel() == param.numel()


def test_gaps_may_come_and_go() -> None:
    param = parameter(*SHAPE)
    optimizer = RMSprop([param, parameter(3)], **ALL_STATE)
    oracle = Oracle(optimizer)
    oracle.check_step()
    for layout in (*GAPS.values(), *DENSE.values(), *GAPS.values()):
        if layout(torch.randn(SHAPE)).shape == SHAPE:
            param.data = layout(torch.randn(SHAPE))
            oracle.check_step()
            oracle.check_step()


def test_data_may_be_swapped_between_steps() -> None:
    param, other = parameter(*SHAPE), parameter(3)
    optimizer = RMSprop([param, other], **ALL_STATE)
    oracle = Oracle(optimizer)
    oracle.check_step()
    for layout in (*DENSE.values(), *DENSE.values()):
        old = param.data
        param.data = layout(torch.randn(SHAPE))
        before = numbers(old).tobytes()
        oracle.check_step()
        assert numbers(old).tobytes() == before


@pytest.mark.parametrize("options", CASES_OF_STATE, ids=repr)
def test_state_may_move_between_steps(options: Options) -> None:
    params = [parameter(*SHAPE), parameter(3)]
    optimizer = RMSprop(params, **options)
    oracle = Oracle(optimizer)
    oracle.check_step()
    for param in params:
        param.share_memory_()
        for tensor in optimizer.state[param].values():
            tensor.share_memory_()
    oracle.check_step()
    for state in optimizer.state.values():
        for key, tensor in state.items():
            state[key] = tensor.clone()
    oracle.check_step()


def test_autograd_learns_of_changed_parameters_and_state() -> None:
    param = parameter(*SHAPE)
    optimizer = RMSprop([param], **ALL_STATE)
    optimizer.step()
    state = optimizer.state[param]
    weights = torch.ones(SHAPE, requires_grad=True)
    changed = {"parameter": param, **{key: state[key] for key in ("variance", "grad_avg", "momentum_buffer")}}
    losses = {name: (weights * tensor).sum() for name, tensor in changed.items()}
    versions = {name: tensor._version for name, tensor in changed.items()}
    param.grad = DENSE["permuted"](torch.randn(SHAPE))  # a step by way of a copy of the gradient
    optimizer.step()
    for name, loss in losses.items():
        assert changed[name]._version > versions[name]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
