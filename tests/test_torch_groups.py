"""RMSprop for PyTorch: groups, gradients that come and go, and what is done to whole gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bits import same_bits

torch = pytest.importorskip("torch")

from rmsprop_fast.torch import RMSprop  # noqa: E402
from torch_oracle import ALL_STATE, Oracle, everything  # noqa: E402
from torch_params import DTYPES, Options, numbers, parameter, renew  # noqa: E402

# --- Groups and gradients --------------------------------------------------------------------------------------------


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
        ({"differentiable": True}, ValueError),
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
