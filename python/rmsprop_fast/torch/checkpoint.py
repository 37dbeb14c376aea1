"""The state of parameters: as a step needs it, and as the state dicts of `torch.optim.RMSprop` have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rmsprop_fast import _core
from rmsprop_fast.torch import compact, lazy
from rmsprop_fast.torch.tensors import (
    Param,
    fitting_kept,
    fitting_step_count,
    is_distributed,
    kept_copy,
    kept_full,
    like_kept,
    plain,
    real,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# What is kept for a parameter besides its step count. With centered, `variance` stands in the place of `square_avg`.
KEPT = _core.KEPT
MEANS = tuple(key for key in KEPT if key != compact.LOW)


def completed(given: object, param: Param, group: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a parameter with all that a step needs, in the form that it needs."""
    name = f"the state of {param.name}"
    state = {} if given is None else _copied(given, name)
    state["step"] = fitting_step_count(state.get("step", 0), f"{name}['step']")
    compact.require_compact(param.tensor, param.name, group)
    dense, dtype = param.tensor if is_distributed(param.tensor) else param.plain, group["state_dtype"]
    low = state.pop(compact.LOW, None)
    if compact.has_low_bits(dense, group):
        state[compact.LOW] = compact.low_bits(low, dense, f"{name}[{compact.LOW!r}]", group)
    like = {key: _like_kept(param.tensor, key, param.name, group) for key in MEANS}
    present = [key for key in MEANS if key in state]
    is_packed = dtype is not None and all(compact.is_packed(state, key, dense, dtype) for key in present)
    # One of both is worked out from others, as numbers.
    if ("square_avg" in state) == group["centered"] or not is_packed:
        state = compact.decoded(state)
        for key in present:
            state[key] = fitting_kept(state[key], param, like[key], f"{name}[{key!r}]")

    def start(key: str, number: float) -> None:
        if key not in state:
            state[key] = kept_full(like[key], number)

    if group["centered"]:
        start("grad_avg", 0)
        if "square_avg" in state:
            state["variance"] = _variance(state.pop("square_avg"), state)
        start("variance", group["initial_s"])
    else:
        state = _with_square_avg(state)
        state.pop("variance", None)
        start("square_avg", group["initial_s"])
    if group["momentum"] > 0:
        start("momentum_buffer", 0)
    if group["lazy"] == "catch_up":
        if lazy.KEY not in state:
            state[lazy.KEY] = lazy.nothing_missed(param.plain, group["alpha"])
        elif not lazy.is_up_to_date(state[lazy.KEY], group["alpha"]):
            state |= {key: state[key].clone() for key in ("square_avg", lazy.KEY)}
            lazy.catch_up(plain(state["square_avg"], name), state[lazy.KEY])
            state[lazy.KEY][-1:] = lazy.nothing_missed(param.plain, group["alpha"])[-1:]
    if dtype is not None:
        for key in MEANS:
            if key in state and not compact.is_packed(state, key, dense, dtype):
                state[key] = compact.packed(state[key], key, dense, dtype)
    if dtype == "uint8":
        state[compact.LAYOUT] = compact.layout_of(dense)
    return state


def catch_up(states: dict[Any, Any]) -> None:
    """Let all rows decay by the steps that they have missed, see `lazy`."""
    for state in states.values():
        if isinstance(state, dict) and lazy.KEY in state:
            lazy.catch_up(plain(state["square_avg"], "square_avg"), state[lazy.KEY])


@torch.no_grad()
def as_torch_has_it(_optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """Give a state dict, as a hook, what `torch.optim.RMSprop` keeps: no codes, no variance, and nothing lazy."""
    states = state_dict["state"]
    for key, state in states.items():
        if isinstance(state, dict):
            state = {name: _as_float32(name, kept) for name, kept in compact.decoded(state).items()}
            states[key] = {name: kept for name, kept in _with_square_avg(state).items() if name != lazy.KEY}


@torch.no_grad()
def prepared_to_load(
    optimizer: torch.optim.Optimizer,
    state_dict: dict[str, Any],
    options: Iterable[str],
    require_legal: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Return one that lacks no option of the groups, with tensors that Optimizer.load_state_dict leaves as they are."""
    own_groups, saved_groups = optimizer.param_groups, state_dict["param_groups"]
    own_sizes, saved_sizes = ([len(group["params"]) for group in groups] for groups in (own_groups, saved_groups))
    if own_sizes != saved_sizes:
        return state_dict  # which Optimizer refuses

    groups = []
    for own, saved in zip(own_groups, saved_groups, strict=True):
        group = {key: own[key] for key in options if key in own} | saved
        # How to run belongs to this run, not to what was learnt.
        group |= {key: own[key] for key in ("capturable", "differentiable", "foreach")}
        require_legal(group)
        groups.append(group)

    indices = (index for group in groups for index in group["params"])
    params = ((param, group) for own, group in zip(own_groups, groups, strict=True) for param in own["params"])
    state = dict(state_dict["state"])
    for index, (param, group) in dict(zip(indices, params, strict=True)).items():
        if index in state:
            name = f"state[{index}]"
            kept = _copied(state[index], name)
            if not compact.has_low_bits(param, group):
                kept.pop(compact.LOW, None)
            state[index] = {key: _to_load(key, value, param, group, f"{name}[{key!r}]") for key, value in kept.items()}
    return {**state_dict, "param_groups": groups, "state": state}


def take_loaded(states: dict[Any, Any]) -> None:
    """Put the tensors that were loaded in their places."""
    for state in states.values():
        if isinstance(state, dict):
            state.update({key: value.tensor for key, value in state.items() if isinstance(value, _Loaded)})


@dataclass
class _Loaded:
    """Hides a tensor from Optimizer.load_state_dict, which would round it to the dtype of the parameter."""

    tensor: Tensor


def _copied(state: object, name: str) -> dict[str, Any]:
    if not isinstance(state, dict):
        raise TypeError(f"{name}: expected a dict, got {state!r}")
    return dict(state)


def _like_kept(param: Tensor, key: str, name: str, group: dict[str, Any]) -> Tensor:
    return like_kept(param, name, by_row=key == "square_avg" and group.get("rowwise", False))


def _as_float32(key: str, kept: Any) -> Any:
    return kept.float() if key in MEANS and isinstance(kept, Tensor) and kept.dtype == torch.bfloat16 else kept


def _to_load(key: str, value: Any, param: Tensor, group: dict[str, Any], name: str) -> Any:
    if key == "step" and isinstance(value, Tensor):
        return _Loaded(value.detach().clone())
    if key == compact.LOW:
        return _Loaded(compact.low_bits(value, torch.empty_like(param), name, group).clone())
    if key not in MEANS:
        return value
    return _Loaded(kept_copy(value, _like_kept(param, key, name, group), name))  # the next step makes it compact


def _squares(tensor: Tensor) -> Tensor:
    """Return the squares, for complex numbers those of both parts."""
    if tensor.is_complex():
        return torch.view_as_complex(real(tensor).square())
    return tensor.square()


def _with_square_avg(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state with the square_avg that belongs to its variance, if it has no other."""
    if "square_avg" in state or "variance" not in state or "grad_avg" not in state:
        return state
    return {**state, "square_avg": state["variance"] + _squares(state["grad_avg"])}


def _variance(square_avg: Tensor, state: dict[str, Any]) -> Tensor:
    """Return the variance that belongs to a square_avg."""
    squares = _squares(state["grad_avg"])
    variance = real(square_avg - squares).clamp(min=0)
    if "variance" in state:
        # Others change square_avg and know nothing of the variance: it is worth something where both still agree.
        saved = state["variance"]
        variance = torch.where(real(saved + squares) == real(square_avg), real(saved), variance)
    return torch.view_as_complex(variance) if square_avg.is_complex() else variance
