"""Where an optimizer of PyTorch has to go, to the byte."""

from __future__ import annotations

from typing import Any

import numpy as np

import rmsprop_fast as rf
from bits import Array, same_bits
from rmsprop_fast.torch import RMSprop
from torch_params import Options, Tensor, numbers

OWN_OPTIONS: Options = {
    "nesterov": False,
    "lr_in_momentum": False,
    "eps_inside_sqrt": False,
    "initial_s": 0,
    "bias_correction": False,
    "decoupled_weight_decay": False,
    "clip_value": None,
    "max_grad_norm": None,
    "skip_nonfinite": False,
    "lazy": "rows",
    "rowwise": False,
    "state_dtype": None,
    "rounding": "nearest",
    "low_bits": 0,
}
# What rmsprop_fast.init calls the options of a group; those of the whole gradient are the oracle's own affair.
NAMES = {name: name for name in ("lr", "eps", "weight_decay", "momentum", "centered", "maximize", *OWN_OPTIONS)}
NAMES |= {"alpha": "rho", "decoupled_weight_decay": "decoupled"}
del NAMES["max_grad_norm"], NAMES["skip_nonfinite"]

# With all state there is.
ALL_STATE: Options = {"centered": True, "momentum": 0.9}


class Oracle:
    """Takes the steps of an optimizer by `rmsprop_fast.reference`, on copies in NumPy.

    It has a state for each parameter, as the optimizer has, and clips the gradients to the norm itself.
    """

    def __init__(self, optimizer: RMSprop) -> None:
        self.optimizer = optimizer
        self.params: dict[Tensor, Array] = {}
        self.states: dict[Tensor, rf.State] = {}
        self.grad_norm: float | None = None
        self.skipped = 0

    def step(self) -> None:
        """To be called before the optimizer's step, which changes what this one begins with."""
        groups = {param: group for group in self.optimizer.param_groups for param in group["params"]}
        self.params = {param: numbers(param).copy(order="K") for param in groups}
        grads = {param: self.gradient(param) for param in groups if param.grad is not None}
        factor = self.factor(grads)
        if factor is None:
            return
        for param, grad in grads.items():
            options = self.options(param, groups[param])
            if param not in self.states:
                self.states[param] = rf.init(self.params[param], **options)
            state = self.states[param]
            for name in options.keys() - {"centered", "initial_s", "lazy", "rowwise", "state_dtype", "low_bits"}:
                setattr(state, name, options[name])
            real = (state.variance if state.centered else state.s).dtype.type
            with np.errstate(all="ignore"):
                scaled = np.asarray(real(factor) * grad.astype(real))
            rf.reference.step(self.params[param], scaled, state)

    def options(self, param: Tensor, group: Options) -> Options:
        """Return the options of a parameter in a group for `rmsprop_fast.init`."""
        whole = OWN_OPTIONS | group
        if self.params[param].dtype != "bfloat16":
            whole["low_bits"] = 0
        return {ours: whole[theirs] for theirs, ours in NAMES.items()} | {"lr": float(group["lr"])}

    def begin(self, param: Tensor, kept: dict[str, Array], steps: int) -> None:
        """Go on for this parameter from what was kept after so many steps."""
        group = next(group for group in self.optimizer.param_groups if any(param is p for p in group["params"]))
        self.params[param] = numbers(param).copy(order="K")
        state = self.states[param] = rf.init(self.params[param], **self.options(param, group))
        state.steps = steps
        for name in ("variance" if state.centered else "s", "grad_avg", "momentum_buffer"):
            if getattr(state, name) is not None:
                setattr(state, name, kept["square_avg" if name == "s" else name])

    def start_from(self, saved: Any) -> None:
        """Go on from a state dict."""
        params = [param for group in self.optimizer.param_groups for param in group["params"]]
        for param, kept in zip(params, saved["state"].values(), strict=True):
            arrays = {key: numbers(value) for key, value in kept.items() if key != "step"}
            self.begin(param, arrays, int(kept["step"]))

    def gradient(self, param: Tensor) -> Array:
        """Return the gradient in the memory order of its parameter: that in which squares are summed up."""
        grad = numbers(param.grad)
        copy = np.empty_like(self.params[param], dtype=grad.dtype)
        copy[...] = grad
        return copy

    def factor(self, grads: dict[Tensor, Array]) -> float | None:
        """Return what the norm asks to multiply the gradients by; None if the step is to be skipped."""
        group = OWN_OPTIONS | self.optimizer.param_groups[0]
        most, skip = group["max_grad_norm"], group["skip_nonfinite"]
        self.grad_norm = None
        if most is None and not skip:
            return 1.0
        params = [self.params[param].copy(order="K") for param in grads]
        state = rf.init(params, clip_global_norm=most, skip_nonfinite=skip)
        rf.reference.step(params, list(grads.values()), state)
        self.grad_norm = norm = state.grad_norm
        self.skipped += state.skipped
        assert norm is not None
        if state.skipped:
            return None
        return 1.0 if most is None or norm <= most else most / norm

    def check(self) -> None:
        """Has the optimizer come to the same, to the byte?"""
        for param, expected in self.params.items():
            assert same_bits(numbers(param), expected)
        for param, state in self.states.items():
            kept = self.optimizer.state[param] if state.state_dtype is None else self.saved(param)
            mean = "variance" if state.centered else "square_avg"
            assert same_bits(numbers(kept[mean]), getattr(state, "variance" if state.centered else "s"))
            if state.low_bits:
                assert (numbers(kept["low_order_bits"]).view(state.low_order_bits.dtype) == state.low_order_bits).all()
            for name in ("grad_avg", "momentum_buffer"):
                if getattr(state, name) is not None:
                    assert same_bits(numbers(kept[name]), getattr(state, name))
            assert kept["step"] == state.steps
        assert self.optimizer.skipped == self.skipped
        assert repr(self.optimizer.grad_norm) == repr(self.grad_norm)

    def saved(self, param: Tensor) -> Any:
        """Return what a state dict has for a parameter: float32 numbers, where they are compact in the optimizer."""
        params = [one for group in self.optimizer.param_groups for one in group["params"]]
        index = next(index for index, one in enumerate(params) if one is param)
        return self.optimizer.state_dict()["state"][index]

    def check_step(self) -> None:
        self.step()
        self.optimizer.step()
        self.check()


def everything(optimizer: RMSprop, *params: Tensor) -> list[bytes]:
    """Return the bytes of these parameters and of all that is kept for them, under its names."""
    kept = [(key, value) for param in params for key, value in optimizer.state.get(param, {}).items()]
    return [numbers(param).tobytes() for param in params] + [key.encode() + numbers(x).tobytes() for key, x in kept]
