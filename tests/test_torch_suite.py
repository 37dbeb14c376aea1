"""PyTorch's own tests of its optimizers (test/test_optim.py), for RMSprop: its inputs, and its checks written anew.

`test_torch_trajectories.py` follows its inputs and schedulers step by step, beside `torch.optim.RMSprop`.
"""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch")

from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from rmsprop_fast.torch import RMSprop  # noqa: E402
from torch_oracle import everything  # noqa: E402
from torch_params import (  # noqa: E402
    Options,
    Tensor,
    parameter,
    pytorchs_cases,
    renew,
    same_numbers,
    through_a_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable

INFO = pytorchs_cases()
INPUTS: dict[str, Options] = {case.desc: case.kwargs for case in INFO.optim_inputs_func("cpu")}

# What its tests ask of RMSprop and is refused here, with the reason that the message gives; tested below.
REFUSED: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "differentiable=True": (
        lambda param: RMSprop([param], differentiable=True),
        ValueError,
        "^differentiable: .* a fused step has no derivative",
    ),
    # On the CPU there is no slower way to choose.
    "fused=False": (lambda param: RMSprop([param], fused=False), ValueError, "^fused: .*every step is fused"),
    # torch.optim.RMSprop takes such numbers, which are no decay rates.
    "momentum above 1": (lambda param: RMSprop([param], momentum=1.5), ValueError, "^momentum: .* from 0 to 1"),
    "alpha above 1": (lambda param: RMSprop([param], alpha=1.5), ValueError, "^alpha: .* from 0 to 1"),
    "numbers that are not finite": (lambda param: RMSprop([param], lr=float("inf")), ValueError, "^lr: .*a finite"),
    "other devices": (
        lambda _param: RMSprop([with_gradient(torch.zeros(3, device="meta", requires_grad=True))]).step(),
        TypeError,
        "expected a tensor on the CPU, got one on meta; use torch.optim.RMSprop for that",
    ),
}


def with_gradient(param: Tensor, grad: Tensor | None = None) -> Tensor:
    param.grad = torch.zeros_like(param) if grad is None else grad
    return param


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call(parameter(3, 3))


def test_its_errors_are_errors() -> None:
    """Of the same types; messages for options are our own, and have the name and the value."""
    inputs = INFO.optim_error_inputs_func("cpu", torch.float32)
    assert len(inputs) >= 7
    for case in inputs:
        given = case.optimizer_error_input
        params = given.params if given.params is not None else [parameter(1, 1)]
        if case.error_type is UserWarning:
            with pytest.warns(UserWarning, match=case.error_regex):
                RMSprop(params, **given.kwargs)
            continue
        with pytest.raises(case.error_type) as error:
            RMSprop(params, **given.kwargs)
        refused = "lr" if "lr" in case.error_regex else next(iter(given.kwargs.keys() - {"lr"}), None)
        if refused is None:
            assert error.match(case.error_regex)
        else:
            assert str(error.value).startswith(f"{refused}: expected ")
            assert repr(given.kwargs[refused]) in str(error.value)


each_input = pytest.mark.parametrize("options", INPUTS.values(), ids=INPUTS)


class Line:
    """Its loss, (weight @ input + bias)**2, with a second optimizer's parameters next to it if need be."""

    def __init__(
        self,
        options: Options,
        like: Line | None = None,
        *,
        dtype: Any = torch.float32,
        named: bool = False,
        gaps: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.input = torch.randn(5, dtype=dtype)
        starts = [torch.randn(10, 5, dtype=dtype), torch.randn(10, dtype=dtype)]
        if like is not None:
            starts = [param.detach().clone() for param in like.params]
        if gaps:
            starts = [torch.stack([start, start], dim=-1)[..., 0] for start in starts]
        self.params: list[Tensor] = [start.requires_grad_() for start in starts]
        given = list(zip(("weight", "bias"), self.params, strict=True)) if named else self.params
        self.optimizer: Any = RMSprop(given, **options)

    def loss(self) -> Tensor:
        self.optimizer.zero_grad()
        weight, bias = self.params
        loss = (weight.mv(self.input) + bias).square().sum()
        loss.backward()
        return loss

    def run(self, steps: int) -> Line:
        for _ in range(steps):
            self.optimizer.step(self.loss)
        return self

    def bytes(self) -> list[bytes]:
        return everything(self.optimizer, *self.params)


@each_input
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("schedulers", [[], *INFO.scheduler_inputs], ids=lambda found: f"{len(found)} schedulers")
def test_it_goes_in_the_right_direction(options: Options, schedulers: Any, gaps: bool) -> None:
    line = Line(options, gaps=gaps)
    made = [make(line.optimizer) for make in schedulers]
    before = line.loss().item()
    for _ in range(20):
        loss = line.optimizer.step(line.loss)
        for scheduler in made:
            plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            scheduler.step(loss.detach()) if plateau else scheduler.step()
    after = line.loss().item()
    assert after > before if options.get("maximize") else after < before


@pytest.mark.parametrize("own", [{"lr": 1e-3}, {"weight_decay": 0.5}], ids=repr)
def test_groups_have_options_of_their_own(own: Options) -> None:
    """Parameters in groups go where each goes in an optimizer of its own with these options."""
    params = [parameter(5), parameter(3)]
    alone = [with_gradient(param.detach().clone().requires_grad_(), param.grad.clone()) for param in params]
    optimizers = [
        RMSprop([{"params": params[:1]}, {"params": params[1:], **own}], lr=0.1),
        RMSprop(alone[:1], lr=0.1),
        RMSprop(alone[1:], **{"lr": 0.1, **own}),
    ]
    for optimizer in optimizers * 3:
        optimizer.step()
    for param, other in zip(params, alone, strict=True):
        assert torch.equal(param, other)


@each_input
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensor_lr(options: Options, shape: tuple[int, ...], dtype: Any) -> None:
    lr = torch.full(shape, 0.01, dtype=dtype)
    assert Line({**options, "lr": lr}).run(5).bytes() == Line({**options, "lr": float(lr)}).run(5).bytes()


@each_input
def test_complex_numbers(options: Options) -> None:
    """As pairs of real ones, and as two parameters of real ones."""
    param, pairs = parameter(5, 5, dtype=torch.complex64), parameter(5, 5, 2)
    parts = [parameter(5, 5), parameter(5, 5)]
    pairs.data.copy_(torch.view_as_real(param.data))
    parts[0].data.copy_(param.data.real)
    parts[1].data.copy_(param.data.imag)
    optimizers = [RMSprop(params, **options) for params in ([param], [pairs], parts)]
    for _ in range(3):
        renew(param)
        pairs.grad = torch.view_as_real(param.grad)
        parts[0].grad, parts[1].grad = param.grad.real, param.grad.imag
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(torch.view_as_real(param), pairs)
        assert torch.equal(torch.view_as_real(param), torch.stack(list(parts), dim=-1))


@each_input
def test_a_step_without_gradients_does_nothing(options: Options) -> None:
    line = Line(options)
    before = line.bytes()
    line.optimizer.step()
    assert line.bytes() == before
    assert not line.optimizer.state


@each_input
def test_a_step_of_zero_gradients_moves_nothing_but_for_weight_decay(options: Options) -> None:
    param = with_gradient(parameter(5))
    before = param.detach().clone()
    optimizer = RMSprop([param], **options)
    optimizer.step()
    assert torch.equal(param, before) == ("weight_decay" not in options)
    assert optimizer.state[param]["step"] == 1


@each_input
def test_it_can_be_printed(options: Options) -> None:
    text = repr(RMSprop([parameter(3)], **options))
    assert text.startswith("RMSprop (\nParameter Group 0\n")
    assert all(f"    {key}: {value}\n" in text for key, value in options.items())


@each_input
@pytest.mark.parametrize("way", [copy.deepcopy, through_a_file], ids=["copy", "file"])
@pytest.mark.parametrize("named", [*itertools.product([False, True], repeat=2)], ids=str)
def test_a_loaded_optimizer_goes_the_same_way(
    options: Options, way: Callable[[Any], Any], named: tuple[bool, bool]
) -> None:
    """And the state dict stays as it was; with names of parameters in either, both or none."""
    line = Line(options, named=named[0]).run(20)
    saved = way(line.optimizer.state_dict())
    before = copy.deepcopy(saved)
    other = Line(options, line, named=named[1])
    other.optimizer.load_state_dict(saved)
    assert line.run(20).bytes() == other.run(20).bytes()
    assert len(other.optimizer.state) == 2
    assert ("param_names" in other.optimizer.param_groups[0]) == any(named)
    assert same_numbers(saved, before)


@each_input
def test_older_state_dicts_load(options: Options) -> None:
    """Without the options that came later, and with steps that are numbers."""
    line = Line(options).run(3)
    saved = line.optimizer.state_dict()
    older = copy.deepcopy(saved)
    for flag in INFO.not_og_supported_flags:
        for group in older["param_groups"]:
            del group[flag]
    for state in older["state"].values():
        state["step"] = float(state["step"])
    loaded = Line(options, line)
    loaded.optimizer.load_state_dict(older)
    assert loaded.run(3).bytes() == line.run(3).bytes()


@each_input
def test_torch_goes_on_with_it_and_gives_it_back(options: Options) -> None:
    line = Line(options).run(3)
    other = Line({}, line)
    for cls in (torch.optim.RMSprop, RMSprop):
        saved = through_a_file(other.optimizer.state_dict() if cls is RMSprop else line.optimizer.state_dict())
        other.optimizer = cls(other.params)
        other.optimizer.load_state_dict(saved)
        before = [param.detach().clone() for param in line.params]
        line.run(1)
        other.run(1)
        for param, found, start in zip(line.params, other.params, before, strict=True):
            torch.testing.assert_close(found - start, param - start, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post"])
def test_hooks_of_state_dicts_run_in_their_order(kind: str) -> None:
    """The last to come may be the first."""
    line = Line({}).run(1)
    calls: list[str] = []
    register = getattr(line.optimizer, f"register_{kind}_hook")
    handles = [register(lambda *_: calls.append("a")), register(lambda *_: calls.append("b"), prepend=True)]
    for _ in range(2):
        line.optimizer.load_state_dict(line.optimizer.state_dict())
        for handle in handles:
            handle.remove()
    assert calls == ["b", "a"]


def test_hooks_of_steps() -> None:
    line = Line({}).run(1)
    calls: list[str] = []
    handles = [
        line.optimizer.register_step_post_hook(lambda *_: calls.append("post")),
        line.optimizer.register_step_pre_hook(lambda *_: calls.append("pre")),
        register_optimizer_step_pre_hook(lambda *_: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global post")),
    ]
    for _ in range(2):
        line.run(1)
        for handle in handles:
            handle.remove()
    assert calls == ["global pre", "pre", "post", "global post"]


@each_input
def test_a_deep_copy_has_all_public_attributes(options: Options) -> None:
    optimizer = Line(options).run(1).optimizer

    def public(thing: RMSprop) -> set[str]:
        return {name for name in vars(thing) if not name.startswith("_")}

    assert public(copy.deepcopy(optimizer)) == public(optimizer)
    assert {"param_groups", "state", "defaults"} <= public(optimizer)


@each_input
@pytest.mark.parametrize("also", [{"foreach": True}, {"foreach": False}, {"fused": True}], ids=repr)
def test_all_implementations_are_one(options: Options, also: Options) -> None:
    assert Line({**options, **also}).run(3).bytes() == Line(options).run(3).bytes()


def test_step_counts_have_the_default_dtype() -> None:
    for default, expected in ((torch.float64, torch.float64), (torch.float16, torch.float32)):
        torch.set_default_dtype(default)
        try:
            line = Line({}, dtype=torch.float32).run(1)
        finally:
            torch.set_default_dtype(torch.float32)
        assert {state["step"].dtype for state in line.optimizer.state.values()} == {expected}
        line.run(1)


def test_dtypes_may_be_mixed() -> None:
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64)
    params = [parameter(7, dtype=dtype) for dtype in dtypes]
    alone = [with_gradient(param.detach().clone().requires_grad_(), param.grad.clone()) for param in params]
    together, single = RMSprop(params, momentum=0.9), [RMSprop([param], momentum=0.9) for param in alone]
    for optimizer in [together, *single] * 2:
        optimizer.step()
    assert all(torch.equal(param, other) for param, other in zip(params, alone, strict=True))
