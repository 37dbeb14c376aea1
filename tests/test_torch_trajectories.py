"""Where RMSprop for PyTorch goes: as the reference, to the byte, and as torch.optim.RMSprop, within roundings."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

import rmsprop_fast as rf
from bits import Array
from rmsprop_fast import _core
from tolerances import TOLERANCE, TOLERANCE_CENTERED, difference

torch = pytest.importorskip("torch")

from rmsprop_fast.torch import RMSprop  # noqa: E402
from torch_oracle import OWN_OPTIONS, Oracle  # noqa: E402
from torch_params import (  # noqa: E402
    DTYPES,
    HALVES,
    TOLERANCES,
    Options,
    Tensor,
    flat,
    magnitudes,
    parameter,
    pytorchs_cases,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# --- To the byte -----------------------------------------------------------------------------------------------------

# Of parameters and gradients, with sizes around those of vectors and, for norms, blocks.
LEAVES = [
    *((dtype, dtype, shape) for dtype in DTYPES for shape in [(37,), (7, 10), (), (16, 1), (0, 3)]),
    *((torch.float32, half, shape) for half in HALVES for shape in [(100,), (4097,), (1, 53)]),
    (torch.float64, torch.float64, (8192,)),
]

# For each of three groups.
EACH: dict[str, tuple[Options, Options, Options]] = {
    "defaults": ({}, {}, {}),
    "numbers": ({"lr": 0.1, "alpha": 0.9}, {"eps": 0.1, "weight_decay": 0.3}, {"momentum": 0.5, "alpha": 0.0}),
    "momentum": (
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.5, "lr_in_momentum": True, "nesterov": True},
    ),
    "centered": ({"centered": True}, {"centered": True, "momentum": 0.9}, {}),
    "the mean": ({"eps_inside_sqrt": True}, {"initial_s": 1.0}, {"bias_correction": True}),
    "centered mean": (
        {"centered": True, "eps_inside_sqrt": True},
        {"centered": True, "initial_s": 1.0},
        {"centered": True, "bias_correction": True},
    ),
    "decay": ({"weight_decay": 0.3, "decoupled_weight_decay": True}, {"weight_decay": 0.3}, {"maximize": True}),
    "clip_value": ({"clip_value": 0.5}, {"clip_value": 1, "weight_decay": 0.3}, {"maximize": True, "momentum": 0.9}),
    "half parameters": ({"rounding": "stochastic"}, {"low_bits": 8, "momentum": 0.9}, {"low_bits": 16, "alpha": 0.5}),
    "lr as tensor": ({"lr": torch.tensor(0.3)}, {"lr": torch.tensor(0.1, dtype=torch.float64)}, {"foreach": True}),
    "all": (
        {"lr": 0.02, "weight_decay": 0.1, "maximize": True},
        {"alpha": 0.5, "eps": 1e-3, "momentum": 0.9, "lr_in_momentum": True, "bias_correction": True},
        {"centered": True, "momentum": 0.5, "nesterov": True, "decoupled_weight_decay": True, "weight_decay": 0.1},
    ),
}
ALL: list[Options] = [
    {},
    {"max_grad_norm": 3.0},
    {"max_grad_norm": 1e6},
    {"skip_nonfinite": True},
    {"skip_nonfinite": True, "max_grad_norm": 0.5},
]


def spoil(grad: Tensor) -> None:
    """Put among the numbers of a gradient some that are none, or too large or too small to be squared."""
    flat = (torch.view_as_real(grad) if grad.is_complex() else grad).view(-1)
    bad = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -1e30, 1e-30, 1e-44, -0.0], dtype=torch.float64)
    flat[::3] = bad.repeat(len(flat))[: len(flat[::3])].to(flat.dtype)


@pytest.mark.parametrize("case", EACH)
def test_all_groups_go_where_the_reference_goes(case: str) -> None:
    """With threads that share even the smallest work, of another number in each step: bytes do not depend on it."""
    _core._set_share(0)
    threads = itertools.cycle([1, 2, 7])
    for shared in ALL:
        if any("clip_value" in options for options in EACH[case]) and "max_grad_norm" in shared:
            continue  # there is at most one of them
        params = [torch.randn(shape, dtype=dtype).requires_grad_() for dtype, _, shape in LEAVES]
        groups = [{"params": params[i::3], **options} for i, options in enumerate(EACH[case])]
        oracle = Oracle(RMSprop(groups, **shared))
        for is_bad in (False, False, True, False):
            for param, (_, grad_dtype, shape) in zip(params, LEAVES, strict=True):
                param.grad_dtype = grad_dtype
                param.grad = torch.randn(shape, dtype=grad_dtype)
                if is_bad:
                    spoil(param.grad)
            rf.set_num_threads(next(threads))
            torch.set_num_threads(rf.get_num_threads())
            oracle.check_step()
        assert oracle.skipped == shared.get("skip_nonfinite", False)


def test_every_option_is_compared() -> None:
    """All but those that change nothing or must be False, and those that have tests of their own."""
    options = torch.optim.RMSprop([parameter(1)]).defaults.keys() | OWN_OPTIONS.keys()
    compared = {name for groups in EACH.values() for group in groups for name in group}
    assert compared | {name for shared in ALL for name in shared} == options - {
        *("capturable", "differentiable", "lazy", "rowwise", "state_dtype")
    }


# --- Within roundings ------------------------------------------------------------------------------------------------

STEPS = 200
SHAPES = [(17, 5), (), (2, 3, 4)]


class Problem:
    """Parameters to begin with, and gradients that depend on nothing but the step, or are steady but for a tenth."""

    def __init__(self, dtype: Any, *, steady: bool = False) -> None:
        self.start = [torch.randn(shape, dtype=dtype) for shape in SHAPES]
        self.gradients = [[magnitudes(shape, dtype) for shape in SHAPES] for _ in range(STEPS)]
        if steady:
            self.gradients = [
                [level * (1 + 0.1 * torch.randn(level.shape, dtype=level.dtype)) for level in self.gradients[0]]
                for _ in range(STEPS)
            ]

    def positions(
        self,
        make: Callable[[list[Tensor]], Any],
        before_step: Callable[[list[Tensor]], Any] = lambda params: None,
        after_step: Callable[[int], Any] = lambda step: None,
    ) -> Array:
        """Return the parameters after 0, 1, 2, ... steps of an optimizer, with half of its rate from half-way on."""
        params = [start.clone().requires_grad_() for start in self.start]
        optimizer = make(params)
        found = [flat(params)]
        for step, grads in enumerate(self.gradients):
            for group in optimizer.param_groups:
                if step == STEPS // 2:
                    group["lr"] = group["lr"] / 2
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad.clone()
            with torch.no_grad():
                before_step(params)
            optimizer.step()
            after_step(step)
            found.append(flat(params))
        return np.array(found)


def both(problem: Problem, make: Callable[[Any, list[Tensor]], Any]) -> tuple[Array, Array]:
    """Return our positions and torch's."""
    ours, theirs = (problem.positions(functools.partial(make, cls)) for cls in (RMSprop, torch.optim.RMSprop))
    return ours, theirs


class Case(NamedTuple):
    """What is to be the same: ours with these options, torch.optim.RMSprop with those and something done before."""

    ours: Options
    theirs: Options
    before_step: Callable[[list[Tensor]], Any] = lambda params: None


def same(**options: Any) -> Case:
    return Case(options, options)


# Where 1 - lr * weight_decay is a number of float32, in the second half as well: PyTorch rounds it.
DECAY_BY_POWERS_OF_2 = {"lr": 2.0**-9, "weight_decay": 2.0**-3}


def real_views(params: list[Tensor]) -> list[Tensor]:
    """Return the parameters and gradients as real numbers, in the same memory."""
    found = []
    for param in params:
        found.append(torch.view_as_real(param.detach()) if param.is_complex() else param)
        found[-1].grad = torch.view_as_real(param.grad) if param.is_complex() else param.grad
    return found


def clip_value(params: list[Tensor]) -> None:
    torch.nn.utils.clip_grad_value_(real_views(params), 0.05)


def clip_norm(params: list[Tensor]) -> None:
    """Do what clip_grad_norm_ does, without the 1e-6 that it adds to the norm."""
    norm = torch.nn.utils.get_total_norm([param.grad for param in params])
    torch.nn.utils.clip_grads_with_norm_(params, 2.0, norm - 1e-6)


class Decay:
    """Shrinks the parameters by hand, where `lr` halves half-way."""

    def __init__(self) -> None:
        self.step = 0

    def __call__(self, params: list[Tensor]) -> None:
        lr = 2.0**-9 if self.step % STEPS < STEPS // 2 else 2.0**-10
        self.step += 1
        for param in params:
            param.mul_(1 - lr * 2.0**-3)


CASES = {
    "defaults": same(),
    "numbers": same(lr=0.003, alpha=0.8, eps=0.1),
    "momentum": same(momentum=0.9),
    "weight_decay": same(weight_decay=0.1),
    "maximize": same(maximize=True),
    "all": same(maximize=True, weight_decay=0.1, momentum=0.5, alpha=0.9),
    "no memory": same(alpha=0.0, eps=0.0),
    "lr as tensor": same(lr=torch.tensor(0.003)),
    "clip_value": Case({"clip_value": 0.05}, {}, clip_value),
    "max_grad_norm": Case({"max_grad_norm": 2.0}, {}, clip_norm),
    "decoupled_weight_decay": Case({**DECAY_BY_POWERS_OF_2, "decoupled_weight_decay": True}, {"lr": 2.0**-9}, Decay()),
    "decoupled_weight_decay, momentum": Case(
        {**DECAY_BY_POWERS_OF_2, "decoupled_weight_decay": True, "momentum": 0.9},
        {"lr": 2.0**-9, "momentum": 0.9},
        Decay(),
    ),
}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_it_goes_where_torch_goes(case: str, dtype: Any) -> None:
    problem, (ours, theirs, before_step) = Problem(dtype), CASES[case]
    found = problem.positions(lambda params: RMSprop(params, **ours))
    expected = problem.positions(lambda params: torch.optim.RMSprop(params, **theirs), before_step)
    assert np.isfinite(expected).all()
    assert difference(found, expected) <= TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("steady", [False, True], ids=["any gradients", "steady gradients"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 0.1, "maximize": True}], ids=repr)
def test_it_goes_there_with_centered(options: Options, steady: bool, dtype: Any) -> None:
    """Where gradients are steady, PyTorch's square_avg - grad_avg**2 has lost digits; float64 has 29 bits more."""
    problem = Problem(dtype, steady=steady)
    found, expected = both(problem, lambda cls, params: cls(params, centered=True, alpha=0.9, **options))
    loss = TOLERANCE_CENTERED * (1 if TOLERANCES[dtype] == TOLERANCE else 2.0**-29)
    assert difference(found, expected) <= (loss if steady else TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_groups_go_their_own_ways(dtype: Any) -> None:
    problem = Problem(dtype)
    each: list[Options] = [{"lr": 0.1}, {"momentum": 0.9, "alpha": 0.8}, {"weight_decay": 0.1, "maximize": True}]

    def grouped(cls: Any, params: list[Tensor]) -> Any:
        return cls([{"params": [param], **options} for param, options in zip(params, each, strict=True)])

    found, expected = both(problem, grouped)
    assert difference(found, expected) <= TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_halves_go_where_float32_goes_but_for_their_rounding(case: str, dtype: Any) -> None:
    """Torch's step, in float32, begins where ours began, and is rounded up to the tolerance above and below it.

    Ours has to be between these: a float32 next to the middle of two halves may fall to either side.
    """
    ours, theirs, before_step = CASES[case]
    halves = [torch.randn(shape).to(dtype).requires_grad_() for shape in SHAPES]
    wholes = [half.detach().float().requires_grad_() for half in halves]
    optimizer, torchs = RMSprop(halves, **ours), torch.optim.RMSprop(wholes, **theirs)
    ways = [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
    for step in range(STEPS):
        for half, whole in zip(halves, wholes, strict=True):
            half.grad = magnitudes(half.shape, dtype)
            whole.data.copy_(half.detach())
            whole.grad = half.grad.float()
        if step == STEPS // 2:
            for group in (*optimizer.param_groups, *torchs.param_groups):
                group["lr"] = group["lr"] / 2
        with torch.no_grad():
            before_step(wholes)
        starts = [half.detach().double() for half in halves]
        optimizer.step()
        torchs.step()
        for half, whole, start, way in zip(halves, wholes, starts, ways, strict=True):
            exact = whole.detach().double()
            way += (exact - start).abs()
            off = TOLERANCE * (exact.abs() + way)
            assert ((exact - off).to(dtype) <= half).all()
            assert (half <= (exact + off).to(dtype)).all()


# --- PyTorch's own inputs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_pytorchs_inputs(dtype: Any) -> None:
    problem, inputs = Problem(dtype), pytorchs_cases().optim_inputs_func("cpu")
    assert len(inputs) >= 8
    for case in inputs:

        def make(cls: Any, params: list[Tensor], options: Options = case.kwargs) -> Any:
            return cls(params, **options)

        found, expected = both(problem, make)
        assert difference(found, expected) <= TOLERANCES[dtype], case.desc


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pytorchs_schedulers(dtype: Any) -> None:
    """The loss, which one of them wants to know, does not fall; so that the rate does."""
    problem = Problem(dtype)
    for constructors in pytorchs_cases().scheduler_inputs:

        def scheduled(cls: Any, rates: list[float], constructors: Any = constructors) -> Array:
            schedulers: list[Any] = []

            def make(params: list[Tensor]) -> Any:
                optimizer = cls(params, lr=0.1)
                schedulers.extend(constructor(optimizer) for constructor in constructors)
                return optimizer

            def schedule(_step: int) -> None:
                for scheduler in schedulers:
                    plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                    scheduler.step(1.0) if plateau else scheduler.step()
                rates.append(schedulers[0].optimizer.param_groups[0]["lr"])

            return problem.positions(make, after_step=schedule)

        our_rates: list[float] = []
        their_rates: list[float] = []
        found, expected = scheduled(RMSprop, our_rates), scheduled(torch.optim.RMSprop, their_rates)
        assert our_rates == their_rates
        assert len(set(our_rates)) > 10
        assert difference(found, expected) <= TOLERANCES[dtype]
