"""RMSprop for PyTorch in the place of torch.optim.RMSprop: its options."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from rmsprop_fast.torch import RMSprop  # noqa: E402
from torch_oracle import OWN_OPTIONS, Oracle, everything  # noqa: E402
from torch_params import Options, parameter  # noqa: E402


def test_the_signature_is_torchs_and_then_ours() -> None:
    theirs, ours = (
        [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(cls).parameters.values()
        ]
        for cls in (torch.optim.RMSprop, RMSprop)
    )
    keywords = {"fused": None} | OWN_OPTIONS
    assert ours == theirs + [(name, inspect.Parameter.KEYWORD_ONLY, default) for name, default in keywords.items()]
    assert issubclass(RMSprop, torch.optim.Optimizer)
    assert not issubclass(RMSprop, torch.optim.RMSprop)
    assert f"{RMSprop.__module__}.{RMSprop.__qualname__}" == "rmsprop_fast.torch.RMSprop"  # by which pickles find it


def test_groups_have_the_options_of_torch_and_those_of_ours_that_are_used() -> None:
    param = parameter(3)
    assert RMSprop([param], **OWN_OPTIONS).defaults == torch.optim.RMSprop([param]).defaults
    group = RMSprop([{"params": [param], "lr": 0.5}], 0.1, 0.9, 1e-3, 0.2, 0.3, True, nesterov=True).param_groups[0]
    assert group.pop("params") == [param]
    given = {"lr": 0.5, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.2, "momentum": 0.3, "centered": True}
    assert group == torch.optim.RMSprop([param]).defaults | given | {"nesterov": True}


@pytest.mark.parametrize("foreach", [None, True, False])
def test_foreach_is_accepted_and_changes_nothing(foreach: bool | None) -> None:
    Oracle(RMSprop([parameter(3), parameter(2)], foreach=foreach, momentum=0.9)).check_step()


def test_a_step_that_can_be_differentiated_is_refused_with_a_reason() -> None:
    message = "^differentiable: expected False, got True: .*has no derivative.*torch.optim.RMSprop"
    for group, default in (({}, True), ({"differentiable": True}, False)):
        with pytest.raises(ValueError, match=message):
            RMSprop([{"params": [parameter(3)], **group}], differentiable=default)


@pytest.mark.parametrize("in_group", [False, True])
def test_capturable_on_the_cpu_gives_a_warning_and_changes_nothing(in_group: bool) -> None:
    options: Options = {"capturable": True}
    with pytest.warns(UserWarning, match="^capturable: has no meaning on the CPU"):
        optimizer = RMSprop(
            [{"params": [parameter(3)], **(options if in_group else {})}], **({} if in_group else options)
        )
    oracle = Oracle(optimizer)
    oracle.check_step()
    optimizer.load_state_dict(optimizer.state_dict())  # which says nothing
    assert optimizer.param_groups[0]["capturable"] is True


def test_fused_is_what_every_step_is() -> None:
    param = parameter(3)
    for fused in (None, True):
        Oracle(RMSprop([param], fused=fused)).check_step()
        assert "fused" not in RMSprop([param], fused=fused).param_groups[0]
    with pytest.raises(ValueError, match=r"^fused: expected None or True, got False: every step is fused"):
        RMSprop([param], fused=False)


@pytest.mark.parametrize("flag", ["centered", "maximize", "lr_in_momentum"])
@pytest.mark.parametrize("number", [0, 1])
def test_flags_may_be_0_and_1(flag: str, number: Any) -> None:
    """As torch takes them."""
    param = parameter(3)
    before = param.detach().clone()
    ways = []
    for value in (number, bool(number)):
        param.data.copy_(before)
        options: Options = {flag: value}
        optimizer = RMSprop([param], momentum=0.5, **options)
        assert optimizer.param_groups[0].get(flag, 0) == number
        optimizer.step()
        optimizer.step()
        ways.append(everything(optimizer, param))
    assert ways[0] == ways[1]


def test_parameters_of_a_group_may_be_a_tuple() -> None:
    params = parameter(3), parameter(2)
    optimizer = RMSprop([{"params": params}], momentum=0.9)
    oracle = Oracle(optimizer)
    oracle.check_step()
    optimizer.param_groups[0]["params"] = params
    oracle.check_step()
    assert optimizer.state[params[1]]["step"] == 2
    optimizer.param_groups[0]["params"] = iter(params)
    with pytest.raises(TypeError, match=r"^param_groups\[0\]\['params'\]: expected a list or a tuple, got <tuple_it"):
        optimizer.step()


def test_refused_options_leave_a_generator_of_parameters_as_it_was() -> None:
    params = [parameter(3), parameter(2)]
    generator = (param for param in params)
    refused: list[Options] = [{"lr": -1.0}, {"fused": False}, {"differentiable": True}, {"nesterov": True}]
    for options in refused:
        with pytest.raises(ValueError, match=f"^{next(iter(options))}: expected"):
            RMSprop(generator, **options)
    assert RMSprop(generator).param_groups[0]["params"] == params


def test_repr_shows_what_is_not_the_default() -> None:
    params = [("a", parameter(3))], [("b", parameter(2))]
    assert repr(RMSprop(params[0][0][1:], foreach=None, nesterov=False)) == "RMSprop (\nParameter Group 0\n)"
    optimizer = RMSprop([{"params": params[0]}, {"params": params[1], "lr": torch.tensor(0.5)}], max_grad_norm=1)
    assert repr(optimizer) == (
        "RMSprop (\nParameter Group 0\n    max_grad_norm: 1\n    param_names: ['a']\n"
        "\nParameter Group 1\n    lr: 0.5\n    max_grad_norm: 1\n    param_names: ['b']\n)"
    )


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
    ({"centered": "no"}, TypeError, "{}centered{}: expected True or False, got 'no'"),
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
    group.clear()
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


def test_options_of_ours_may_come_and_go() -> None:
    """A group without one is as one with its default, also right after it had another value."""
    optimizer = RMSprop([parameter(3)], momentum=0.9)
    oracle = Oracle(optimizer)
    group = optimizer.param_groups[0]
    for nesterov in (None, True, None, None, False, True, None):
        group.pop("nesterov", None)
        if nesterov is not None:
            group["nesterov"] = nesterov
        oracle.check_step()


def test_an_option_of_torch_that_got_lost_is_missed() -> None:
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


def test_options_may_come_and_go_between_steps() -> None:
    """Also as keys that are other strings than before, in a group with as many entries as before."""
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = RMSprop([param], lr=0.1, momentum=0.9)
    (group,) = optimizer.param_groups

    def step_and_expect(**options: Any) -> None:
        expected = torch.nn.Parameter(param.detach().clone())
        expected.grad = torch.ones(3)
        other = RMSprop([expected], **options)
        other.load_state_dict({**optimizer.state_dict(), "param_groups": other.state_dict()["param_groups"]})
        other.step()
        optimizer.step()
        assert torch.equal(param, expected)

    step_and_expect(lr=0.1, momentum=0.9)
    group["initial_lr"] = 0.1
    step_and_expect(lr=0.1, momentum=0.9)
    del group["initial_lr"]
    group["".join(["nest", "erov"])] = True
    step_and_expect(lr=0.1, momentum=0.9, nesterov=True)
    group["nesterov"] = False
    step_and_expect(lr=0.1, momentum=0.9)
    del group["nesterov"], group["lr"]
    group["".join(["l", "r"])] = 0.2
    step_and_expect(lr=0.2, momentum=0.9)
    group["lr"] = 0.3
    step_and_expect(lr=0.3, momentum=0.9)
    group["lr"] = rate = torch.tensor(0.4)
    step_and_expect(lr=0.4, momentum=0.9)
    rate.fill_(0.5)
    step_and_expect(lr=0.5, momentum=0.9)
