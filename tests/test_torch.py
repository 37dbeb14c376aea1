"""rmsprop_fast.torch.RMSprop in the place of torch.optim.RMSprop: options, groups, hooks, memory, what is refused."""

from __future__ import annotations

import inspect
import math
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bits import same_bits
from test_good_neighbour import has_openmp, linux, run

torch = pytest.importorskip("torch")

from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from rmsprop_fast.torch import RMSprop  # noqa: E402
from test_torch_trajectories import (  # noqa: E402
    DTYPES,
    OWN_OPTIONS,
    Options,
    Oracle,
    Tensor,
    _leave_torch_as_it_was,  # noqa: F401
    numbers,
    parameter,
    renew,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# With all state there is.
ALL_STATE: Options = {"centered": True, "momentum": 0.9}
CASES_OF_STATE: list[Options] = [{}, {"momentum": 0.9}, {"centered": True}, ALL_STATE]


def everything(optimizer: RMSprop, *params: Tensor) -> list[bytes]:
    """Return the bytes of these parameters and of all that is kept for them, under its names."""
    kept = [(key, value) for param in params for key, value in optimizer.state.get(param, {}).items()]
    return [numbers(param).tobytes() for param in params] + [key.encode() + numbers(x).tobytes() for key, x in kept]


# --- Options ---------------------------------------------------------------------------------------------------------


def test_the_signature_is_torchs_and_then_ours() -> None:
    theirs, ours = (
        [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(cls).parameters.values()
        ]
        for cls in (torch.optim.RMSprop, RMSprop)
    )
    assert ours == theirs + [(name, inspect.Parameter.KEYWORD_ONLY, off) for name, off in OWN_OPTIONS.items()]
    assert issubclass(RMSprop, torch.optim.Optimizer)
    assert not issubclass(RMSprop, torch.optim.RMSprop)


def test_groups_have_the_options_of_torch_and_ours() -> None:
    param = parameter(3)
    assert RMSprop([param]).defaults == torch.optim.RMSprop([param]).defaults | OWN_OPTIONS
    group = RMSprop([{"params": [param], "lr": 0.5}], 0.1, 0.9, 1e-3, 0.2, 0.3, True, nesterov=True).param_groups[0]
    assert group.pop("params") == [param]
    given = {"lr": 0.5, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.2, "momentum": 0.3, "centered": True}
    assert group == torch.optim.RMSprop([param]).defaults | OWN_OPTIONS | given | {"nesterov": True}


@pytest.mark.parametrize("foreach", [None, True, False])
def test_foreach_is_accepted_and_changes_nothing(foreach: bool | None) -> None:
    Oracle(RMSprop([parameter(3), parameter(2)], foreach=foreach, momentum=0.9)).check_step()


@pytest.mark.parametrize(
    ("option", "reason"), [("capturable", "there are no CUDA graphs"), ("differentiable", "has no derivative")]
)
def test_what_a_fused_step_on_the_cpu_cannot_be_is_refused_with_a_reason(option: str, reason: str) -> None:
    for group, default in (({}, True), ({option: True}, False)):
        with pytest.raises(ValueError, match=rf"^{option}: expected False, got True: .*{reason}.*torch.optim.RMSprop"):
            RMSprop([{"params": [parameter(3)], **group}], **{option: default})


BAD_OPTIONS: list[tuple[Options, type[Exception], str]] = [
    ({"lr": -1.0}, ValueError, "{}lr{}: expected a finite number of at least 0, got -1.0"),
    (
        {"lr": torch.tensor([1.0, 2.0])},
        ValueError,
        r"{}lr{}: expected a number or a tensor of one element, got tensor\(\[1., 2",
    ),
    ({"lr": torch.tensor(math.inf)}, ValueError, "{}lr{}: expected a finite number of at least 0, got inf"),
    ({"lr": "1"}, TypeError, "{}lr{}: expected a finite number of at least 0, got '1'"),
    ({"alpha": 1.5}, ValueError, "{}alpha{}: expected a number from 0 to 1, got 1.5"),
    ({"eps": -1e-8}, ValueError, "{}eps{}: expected a finite number of at least 0, got -1e-08"),
    ({"eps": math.nan}, ValueError, "{}eps{}: expected a finite number of at least 0, got nan"),
    ({"weight_decay": -1}, ValueError, "{}weight_decay{}: expected a finite number of at least 0, got -1"),
    ({"momentum": 1.5}, ValueError, "{}momentum{}: expected a number from 0 to 1, got 1.5"),
    ({"momentum": None}, TypeError, "{}momentum{}: expected a number from 0 to 1, got None"),
    ({"centered": 1}, TypeError, "{}centered{}: expected True or False, got 1"),
    ({"maximize": None}, TypeError, "{}maximize{}: expected True or False, got None"),
    ({"initial_s": -1}, ValueError, "{}initial_s{}: expected a finite number of at least 0, got -1"),
    ({"clip_value": 0}, ValueError, "{}clip_value{}: expected None or a finite number above 0, got 0"),
    ({"max_grad_norm": -1}, ValueError, "{}max_grad_norm{}: expected None or a finite number above 0, got -1"),
    ({"nesterov": True}, ValueError, "nesterov: expected momentum above 0 with nesterov=True"),
    ({"bias_correction": True, "initial_s": 1}, ValueError, "bias_correction: expected initial_s=0"),
    ({"bias_correction": True, "alpha": 1}, ValueError, "bias_correction: expected alpha below 1"),
    ({"clip_value": 1, "max_grad_norm": 2}, ValueError, "clip_value, max_grad_norm: expected at most one of them"),
]


@pytest.mark.parametrize(
    ("options", "error", "message"), BAD_OPTIONS, ids=[repr(options) for options, *_ in BAD_OPTIONS]
)
def test_illegal_options_are_refused_at_once_and_before_a_step_changes_anything(
    options: Options, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^" + message.format("", "")):
        RMSprop([parameter(3)], **options)
    params = parameter(3), parameter(4)
    optimizer = RMSprop([{"params": params[:1]}, {"params": params[1:]}])
    optimizer.step()
    before = everything(optimizer, *params)
    group = optimizer.param_groups[1]
    legal = dict(group)
    group.update(options)
    with pytest.raises(error, match="^" + message.format(r"param_groups\[1\]\['", r"'\]")):
        optimizer.step()
    assert everything(optimizer, *params) == before
    group.update(legal)
    optimizer.step()
    assert optimizer.state[params[1]]["step"] == 2


@pytest.mark.parametrize("option", [{"max_grad_norm": 1.0}, {"skip_nonfinite": True}], ids=repr)
def test_what_concerns_the_whole_gradient_is_the_same_in_all_groups(option: Options) -> None:
    params = parameter(3), parameter(4)
    optimizer = RMSprop([{"params": params[:1]}, {"params": params[1:], **option}])
    before = everything(optimizer, *params)
    with pytest.raises(ValueError, match=r"^param_groups\[1\]: expected max_grad_norm and skip_nonfinite as in"):
        optimizer.step()
    assert everything(optimizer, *params) == before


def test_an_option_that_got_lost_is_missed() -> None:
    optimizer = RMSprop([parameter(3)])
    del optimizer.param_groups[0]["alpha"]
    with pytest.raises(ValueError, match=r"^param_groups\[0\]\['alpha'\]: expected a value, got a group without it"):
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_lr_may_be_a_tensor_that_changes_in_place(dtype: Any, shape: tuple[int, ...]) -> None:
    lr = torch.full(shape, 0.1, dtype=dtype)
    optimizer = RMSprop([parameter(3)], lr=lr)
    oracle = Oracle(optimizer)
    oracle.check_step()
    lr.mul_(0.5)
    oracle.check_step()
    optimizer.param_groups[0]["lr"] = 0.25
    oracle.check_step()
    assert lr == torch.full(shape, 0.1, dtype=dtype) * 0.5  # steps read it


@pytest.mark.parametrize("tensor_lr", [False, True])
def test_schedulers_set_the_rate(tensor_lr: bool) -> None:
    groups: list[Options] = [{"params": [parameter(3)]}, {"params": [parameter(2)], "lr": 0.5}]
    optimizer = RMSprop(groups)
    if tensor_lr:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    oracle = Oracle(optimizer)
    for step in range(3):
        assert [float(group["lr"]) for group in optimizer.param_groups] == [0.01 * 0.5**step, 0.5 * 0.5**step]
        oracle.check_step()
        scheduler.step()


# --- Groups, gradients, closures, hooks ------------------------------------------------------------------------------


def test_groups_may_be_added_between_steps() -> None:
    optimizer = RMSprop([("a", parameter(3))], momentum=0.9)
    oracle = Oracle(optimizer)
    oracle.check_step()
    optimizer.add_param_group({"params": [("b", parameter(2, dtype=torch.float64))], "lr": 0.5, "nesterov": True})
    oracle.check_step()
    assert [group["param_names"] for group in optimizer.param_groups] == [["a"], ["b"]]
    assert len(oracle.states) == 2


@pytest.mark.parametrize(
    ("group", "error"),
    [
        ({"lr": -1.0}, ValueError),
        ({"nesterov": True}, ValueError),
        ({"capturable": True}, ValueError),
        ({"params": "the same"}, ValueError),
        ({"params": [3]}, TypeError),
    ],
    ids=repr,
)
def test_a_refused_group_leaves_the_groups_as_they_were(group: Options, error: type[Exception]) -> None:
    param = parameter(3)
    optimizer = RMSprop([param])
    before = [dict(group) for group in optimizer.param_groups]
    group = {"params": [parameter(2)], **group}
    if group["params"] == "the same":
        group["params"] = [param]
    with pytest.raises(error):
        optimizer.add_param_group(group)
    assert optimizer.param_groups == before
    Oracle(optimizer).check_step()


def test_parameters_without_gradient_wait_and_count_their_own_steps() -> None:
    """Bias correction tells: the first step of a parameter is its first, whenever it comes."""
    params = [parameter(3), parameter(2), parameter(4)]
    optimizer = RMSprop([{"params": params[:2]}, {"params": params[2:]}], bias_correction=True, **ALL_STATE)
    oracle = Oracle(optimizer)
    for present in ([0, 2], [0, 1], [], [1, 2], [0, 1, 2]):
        for index, param in enumerate(params):
            renew(param)
            if index not in present:
                param.grad = None
        oracle.check_step()
    assert [float(optimizer.state[param]["step"]) for param in params] == [3, 3, 3]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool) -> None:
    param = parameter(3)
    optimizer = RMSprop([param], momentum=0.9)
    oracle = Oracle(optimizer)
    oracle.check_step()
    optimizer.zero_grad(set_to_none)
    assert (param.grad is None) == set_to_none
    oracle.check_step()
    assert optimizer.state[param]["step"] == (1 if set_to_none else 2)
    renew(param)
    oracle.check_step()


def test_without_any_gradient_or_parameter_nothing_happens() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = RMSprop([param], max_grad_norm=1, skip_nonfinite=True)
    assert optimizer.step() is None
    assert param.tolist() == [1, 1, 1]
    assert (optimizer.state, optimizer.skipped) == ({}, 0)
    assert RMSprop([{"params": []}]).step() is None


@pytest.mark.parametrize("hooked", [False, True])
def test_a_closure_is_evaluated_once_with_gradients_before_the_step(hooked: bool) -> None:
    param = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = RMSprop([param], lr=0.1, alpha=0.0, eps=0.0)
    if hooked:
        optimizer.register_step_post_hook(lambda *_: None)
    seen = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        seen.append(param.tolist())
        optimizer.zero_grad()
        loss = (3 * param).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss: Any = optimizer.step(closure)
    assert loss.item() == -3
    assert seen == [[1, -2]]
    assert param.tolist() == pytest.approx([0.9, -2.1])  # with alpha=0, a step is lr * g / |g|


def classes() -> list[tuple[type[RMSprop], str]]:
    """Return RMSprop and subclasses that leave `step` as it is or override it: new ones, as torch changes them."""

    class Plain(RMSprop):
        pass

    class Overriding(RMSprop):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    class Again(Overriding):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    return [(RMSprop, "RMSprop"), (Plain, "Plain"), (Overriding, "Overriding"), (Again, "Again")]


HOOKS = ["global pre", "own pre", "own post", "global post"]  # in the order that torch calls them in


@pytest.mark.parametrize("index", range(4), ids=["RMSprop", "subclass", "overriding", "overriding twice"])
@pytest.mark.parametrize("names", [*([name] for name in HOOKS), HOOKS], ids=", ".join)
def test_hooks_run_once_in_torchs_order(index: int, names: list[str]) -> None:
    cls, _ = classes()[index]
    param = parameter(3)
    optimizer = cls([param])
    calls: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: calls.append(f"{name} {float(optimizer.state[param].get('step', 0)):.0f}")

    hooks = {
        "global pre": register_optimizer_step_pre_hook,
        "own pre": optimizer.register_step_pre_hook,
        "own post": optimizer.register_step_post_hook,
        "global post": register_optimizer_step_post_hook,
    }
    assert list(hooks) == HOOKS
    with ExitStack() as stack:
        for name in names:
            stack.callback(hooks[name](note(name)).remove)
        optimizer.step()
    assert calls == [f"{name} {0 if name.endswith('pre') else 1}" for name in names]
    optimizer.step()
    assert len(calls) == len(names)  # they are gone


def test_a_pre_hook_may_change_the_arguments() -> None:
    optimizer = RMSprop([parameter(3)])
    optimizer.register_step_pre_hook(lambda self, args, kwargs: ((self, lambda: 7.0), {}))
    assert optimizer.step() == 7.0


@pytest.mark.parametrize("index", range(3), ids=["RMSprop", "subclass", "overriding"])
def test_the_profiler_sees_each_step_once(index: int) -> None:
    cls, name = classes()[index]
    optimizer = cls([parameter(3)])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
        optimizer.step()
    seen = [event.name for event in profile.events() if event.name.startswith("Optimizer.step")]
    assert seen == [f"Optimizer.step#{name}.step"] * 2


# --- Whole gradients: scaling, clipping, skipping --------------------------------------------------------------------


def test_a_grad_scaler_unscales_and_skips_as_it_does_for_others() -> None:
    param = parameter(4)
    weights = torch.randn(4)
    optimizer = RMSprop([param], **ALL_STATE)
    oracle = Oracle(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor in (1.0, math.inf, 2.0):
        param.grad = weights * factor  # what comes of it: scaling by powers of 2 rounds nothing
        if factor < math.inf:
            oracle.step()
        before = everything(optimizer, param)
        optimizer.zero_grad()
        scaler.scale((param * weights).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        if factor < math.inf:
            oracle.check()
        else:
            assert everything(optimizer, param) == before
    assert (scaler.get_scale(), optimizer.state[param]["step"]) == (512.0, 2)


def test_the_norm_is_that_of_all_groups_and_gradients_stay_as_they_are() -> None:
    params = [parameter(5, 3), parameter(7, dtype=torch.float64), parameter(2, dtype=torch.complex64)]
    optimizer = RMSprop([{"params": params[:1]}, {"params": params[1:]}], max_grad_norm=0.5)
    oracle = Oracle(optimizer)
    grads = [numbers(param.grad).copy() for param in params]
    oracle.check_step()
    assert all(same_bits(numbers(param.grad), grad) for param, grad in zip(params, grads, strict=True))
    copies = [param.detach().clone() for param in params]
    for copy, param in zip(copies, params, strict=True):
        copy.grad = param.grad.clone()
    assert optimizer.grad_norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(copies, 0.5)), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "square"])
def test_a_skipped_step_changes_nothing_and_is_counted(dtype: Any, bad: str) -> None:
    """That the step before can still be differentiated shows that autograd is not told of a change either."""
    params = [parameter(5, dtype=dtype), parameter(3)]
    optimizer = RMSprop([{"params": params[:1]}, {"params": params[1:]}], skip_nonfinite=True, **ALL_STATE)
    oracle = Oracle(optimizer)
    oracle.check_step()
    # A number whose square overflows; no float16 has one.
    value = {torch.float64: 2e154, torch.complex128: 2e154, torch.float16: math.inf}.get(dtype, 2e19)
    params[0].grad[3] = value if bad == "square" else float(bad)
    before = everything(optimizer, *params)
    loss = (params[1] * params[1]).sum()
    oracle.check_step()
    assert everything(optimizer, *params) == before
    assert optimizer.skipped == 1
    loss.backward()
    renew(*params)
    oracle.check_step()
    assert optimizer.skipped == 1


def test_grad_norm_is_that_of_the_last_step_if_it_needed_one() -> None:
    param = torch.zeros(2, requires_grad=True)
    param.grad = torch.tensor([3.0, 4.0])
    optimizer = RMSprop([param])
    norms = [optimizer.grad_norm]
    for most in (None, 1.0, None):
        optimizer.param_groups[0]["max_grad_norm"] = most
        optimizer.step()
        norms.append(optimizer.grad_norm)
    assert norms == [None, None, 5.0, None]


# --- Memory ----------------------------------------------------------------------------------------------------------

SHAPE = (2, 3, 4, 5)


def in_order(tensor: Tensor, *order: int) -> Tensor:
    """Return the same numbers in other memory, in which the axes have this order."""
    back = [order.index(axis) for axis in range(len(order))]
    return tensor.permute(order).contiguous().permute(back)


def misaligned(tensor: Tensor) -> Tensor:
    """Return the same numbers in memory that begins one byte after where it should."""
    memory = bytearray(b"x" + numbers(tensor).tobytes())
    return torch.frombuffer(memory, dtype=tensor.dtype, offset=1).view(tensor.shape)


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
    """Draw a dense parameter and gradients of two steps, each with its own memory."""
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
    return ordered().requires_grad_(), [gradient(), gradient()]


@given(any_memory(), st.sampled_from(CASES_OF_STATE), st.booleans())
def test_any_memory_gives_the_same_bytes(memory: tuple[Tensor, list[Tensor]], options: Options, clip: bool) -> None:
    param, grads = memory
    oracle = Oracle(RMSprop([param], max_grad_norm=1 if clip else None, **options))
    for grad in grads:
        param.grad = grad
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


# --- What is refused -------------------------------------------------------------------------------------------------


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
    "sparse gradient": (
        lambda: with_gradient(torch.eye(3), torch.eye(3).to_sparse()),
        RuntimeError,
        ".grad: RMSprop does not support sparse gradients yet, got layout torch.sparse_coo",
    ),
    "sparse parameter": (
        lambda: with_gradient(torch.eye(3).to_sparse()),
        TypeError,
        ": expected a dense tensor, got one of layout torch.sparse_coo",
    ),
    "gradient of another dtype": (
        lambda: with_gradient(ones(3), ones(3, dtype=torch.float64)),
        TypeError,
        ".grad: expected torch.float32 as its parameter, got torch.float64",
    ),
    "float32 gradient of a half": (
        lambda: with_gradient(ones(3, dtype=torch.float16), ones(3)),
        TypeError,
        ".grad: expected torch.float16 as its parameter, got torch.float32",
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
        r": expected dense memory, got shape \(3, 4\) with strides \(1, 0\)",
    ),
    "sliced": (
        lambda: with_gradient(torch.zeros(6)[::2]),
        ValueError,
        r": expected dense memory, got shape \(3,\) with strides \(2,\)",
    ),
    "overlapping itself": (
        lambda: with_gradient(torch.zeros(4).as_strided((3, 2), (1, 1))),
        ValueError,
        r": expected dense memory, got shape \(3, 2\) with strides \(1, 1\)",
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
    bad.grad = torch.eye(2)[0].to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
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


def gradient_in_a_parameter() -> list[Tensor]:
    first, second = parameter(3), parameter(3)
    first.grad = second.detach()
    return [first, second]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (overlapping_params, "^a: overlaps the memory of b, expected"),
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


# --- Compiling and threads -------------------------------------------------------------------------------------------


# PyTorch's own, when it traces code that sets gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_training_step_goes_where_others_go() -> None:
    inputs = torch.randn(4, 3)

    def trained(optimizer_class: Any, compiled: Callable[[Any], Any]) -> list[Tensor]:
        torch.manual_seed(1)
        model = torch.nn.Linear(3, 2)
        optimizer = optimizer_class(model.parameters(), momentum=0.9)

        def train() -> None:
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()

        train = compiled(train)
        for _ in range(5):
            train()
        return [param.detach() for param in model.parameters()]

    torch._dynamo.reset()
    found = trained(RMSprop, lambda function: torch.compile(function, backend="eager"))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # something was compiled
    torch._dynamo.reset()
    for param, expected in zip(found, trained(torch.optim.RMSprop, lambda function: function), strict=True):
        torch.testing.assert_close(param, expected, rtol=2e-6, atol=2e-7)


@linux
@has_openmp
def test_a_step_uses_no_more_threads_than_torch_or_we_were_told() -> None:
    """Threads that have been started stay: what each number of threads adds is counted."""
    code = """
        import os, torch, rmsprop_fast as rf
        from rmsprop_fast.torch import RMSprop
        torch.set_num_threads(1)
        rf.set_num_threads(4)
        param = torch.zeros(10**6, requires_grad=True)
        param.grad = torch.ones(10**6)
        optimizer = RMSprop([param])
        for threads in (1, 2, 3, 9):
            torch.set_num_threads(threads)
            before = len(os.listdir("/proc/self/task"))
            for _ in range(3):
                optimizer.step()
            print(len(os.listdir("/proc/self/task")) - before)
    """
    assert run(code).stdout.split() == ["0", "1", "1", "1"]
