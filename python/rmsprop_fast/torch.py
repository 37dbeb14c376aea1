"""RMSprop for PyTorch on the CPU: a drop-in for `torch.optim.RMSprop` that takes a step of all parameters in one pass.

>>> import torch
>>> from rmsprop_fast.torch import RMSprop
>>> model = torch.nn.Linear(3, 1)
>>> optimizer = RMSprop(model.parameters(), lr=1e-3)
"""

from __future__ import annotations

import functools
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from rmsprop_fast import _core

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim.optimizer import ParamsT

__all__ = ["RMSprop"]

if not hasattr(Tensor, "__dlpack_c_exchange_api__"):
    raise ImportError(f"rmsprop_fast.torch: expected PyTorch 2.10 or newer, got {torch.__version__}")

_Group: TypeAlias = dict[str, Any]
_State: TypeAlias = dict[str, Any]

# What is kept for a parameter besides its step count. `variance` stands for `square_avg` with centered.
_KEPT = ("square_avg", "variance", "grad_avg", "momentum_buffer")

_KEPT_DTYPES = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex64: torch.complex64,
    torch.complex128: torch.complex128,
}


class RMSprop(torch.optim.Optimizer):
    """`torch.optim.RMSprop` as one fused pass over all parameters, in place, on the CPU.

    Has the parameters and defaults of `torch.optim.RMSprop`, and options of its own. State dicts may be exchanged with
    it in both directions, in the middle of a training. Results differ by rounding; with ``centered`` the variance is
    kept itself, so it never turns negative.

    Parameters
    ----------
    params : iterable of tensors, of (name, tensor) pairs, or of dicts
        float32, float64, float16, bfloat16, complex64 or complex128, on the CPU, dense in any memory order; or DTensors
        with such shards. For halves, computations and state are in float32. A dict is a group with options of its own.
    lr : float or Tensor, default 1e-2
        Learning rate; a tensor has one element.
    alpha : float, default 0.99
        Decay rate of the running means, from 0 to 1.
    eps : float, default 1e-8
        Added to the root of the mean.
    weight_decay : float, default 0
        Pull to 0; part of the gradient (L2), but for ``decoupled_weight_decay``.
    momentum : float, default 0
        Decay rate of the momentum buffer, from 0 to 1.
    centered : bool, default False
        Divide by the standard deviation of the gradient.
    capturable, differentiable : bool, default False
        Must be False: there are no CUDA graphs on the CPU, and a fused step has no derivative.
    foreach : bool, optional
        Has no meaning here, and is ignored.
    maximize : bool, default False
        Ascend.
    nesterov : bool, default False
        Nesterov's momentum, as in optax; needs momentum.
    lr_in_momentum : bool, default False
        Whether the momentum buffer sums up steps that include lr (TensorFlow, Keras).
    eps_inside_sqrt : bool, default False
        Divide by ``sqrt(square_avg + eps)``.
    initial_s : float, default 0
        What square_avg starts at.
    bias_correction : bool, default False
        Correct the running means for having started at 0.
    decoupled_weight_decay : bool, default False
        Let ``weight_decay`` act on the parameter, apart from the step: ``p = p - lr * weight_decay * p``.
    clip_value : float, optional
        Clamp every gradient to at most this, either side of 0, as `torch.nn.utils.clip_grad_value_`.
    max_grad_norm : float, optional
        Scale all gradients so that the norm of all of them, over all groups, is at most this, as
        `torch.nn.utils.clip_grad_norm_` (without the 1e-6 that it adds to the norm). The gradients stay as they are.
    skip_nonfinite : bool, default False
        Skip steps whose gradients are not finite, or have squares that overflow: such a step changes nothing.

    Raises
    ------
    TypeError, ValueError
        For options out of range or in contradiction, and parameters that are not on the CPU. Whatever else there is to
        say against a tensor, `step` does.

    Notes
    -----
    ``max_grad_norm`` and ``skip_nonfinite`` are for the whole gradient, so they must be the same in all groups. Where
    parameters are DTensors, the norm is that over all processes. `torch.distributed.optim.ZeroRedundancyOptimizer`
    gives each process an optimizer of some of the parameters, which knows nothing of the others: clip before the step.

    `rmsprop_fast.State` has the equations and the sources of the options: ``help(rmsprop_fast.State.nesterov)``.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        nesterov: bool = False,
        lr_in_momentum: bool = False,
        eps_inside_sqrt: bool = False,
        initial_s: float = 0,
        bias_correction: bool = False,
        decoupled_weight_decay: bool = False,
        clip_value: float | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
    ) -> None:
        self._kernel = _make_kernel()
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "nesterov": nesterov,
            "lr_in_momentum": lr_in_momentum,
            "eps_inside_sqrt": eps_inside_sqrt,
            "initial_s": initial_s,
            "bias_correction": bias_correction,
            "decoupled_weight_decay": decoupled_weight_decay,
            "clip_value": clip_value,
            "max_grad_norm": max_grad_norm,
            "skip_nonfinite": skip_nonfinite,
        }
        super().__init__(params, defaults)

    @property
    def grad_norm(self) -> float | None:
        """The norm of the whole gradient at the last step, before clipping; None if that step did not need it."""
        return self._kernel.grad_norm

    @property
    def skipped(self) -> int:
        """How many steps ``skip_nonfinite`` has skipped since this object was made; no part of its state dict."""
        return self._kernel.skipped

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update, in place, all parameters that have a gradient.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again, and returns the loss.

        Returns
        -------
        The loss of the closure, or None.

        Raises
        ------
        TypeError, ValueError
            For tensors and options that are not as the class describes; then nothing has changed.
        RuntimeError
            For sparse gradients, or if another thread is in a step of this optimizer.
        """
        arguments = () if closure is None else (closure,)
        if torch.compiler.is_compiling():
            return (self._observed_update if type(self).step is RMSprop.step else self._opaque_update)(*arguments)
        return (self._observed_update if self._is_observed() else self._update)(*arguments)

    # Optimizer would wrap `step` in a profiler's scope and a look for hooks, which cost as much as a step of a small
    # model: _is_observed() says when they are needed.
    step.hooked = True  # type: ignore[attr-defined]

    def _is_observed(self) -> bool:
        return type(self).step is RMSprop.step and bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
        )

    def _update(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        before: dict[Tensor, _State | None] = {}
        fit = functools.partial(self._fit, before)
        try:
            self._kernel.step(self.param_groups, self.state, fit, self._norm_over_processes, torch.get_num_threads())
        except Exception:
            for param, state in before.items():
                if state is None:
                    del self.state[param]
                else:
                    self.state[param] = state
            raise
        return loss

    _opaque_update: Callable[..., float | None] = torch.compiler.disable(_update)  # type: ignore[no-untyped-call]
    _observed_update: Callable[..., float | None] = torch.compiler.disable(  # type: ignore[no-untyped-call]
        torch.optim.Optimizer.profile_hook_step(_update)
    )

    def add_param_group(self, param_group: _Group) -> None:
        """Add a group of parameters, as `torch.optim.Optimizer.add_param_group`, or raise what is wrong with it."""
        super().add_param_group(param_group)
        try:
            self._require_legal(param_group)
            for index, param in enumerate(param_group["params"]):
                if param.device.type != "meta":  # which may get its memory later
                    _require_cpu(param, _name(param_group, len(self.param_groups) - 1, index))
        except BaseException:
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return the state as `torch.optim.Optimizer.state_dict`; `torch.optim.RMSprop` can load it.

        With ``centered`` it has ``square_avg``, which is ``variance + grad_avg**2``, and also ``variance``.
        """
        handle = self.register_state_dict_post_hook(_add_square_avg, prepend=True)
        try:
            return super().state_dict()
        finally:
            handle.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a copy of a state dict, also one of `torch.optim.RMSprop`: then options that it lacks stay as they are.

        Raises
        ------
        TypeError, ValueError
            If groups or shapes differ from those here, or values cannot be taken; nothing has changed then.
        """
        handle = self.register_load_state_dict_pre_hook(lambda _, given: self._prepare_to_load(given))  # the last one
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_kernel" not in self.__dict__:
            self._kernel = _make_kernel()
        for kept in self.state.values():
            if isinstance(kept, dict):
                kept.update({key: value.tensor for key, value in kept.items() if isinstance(value, _Loaded)})

    def _prepare_to_load(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        groups = []
        for own, saved in zip(self.param_groups, state_dict["param_groups"], strict=False):
            group = {key: own[key] for key in self.defaults} | saved
            # How to run belongs to this run, not to what was learnt.
            group |= {key: own[key] for key in ("capturable", "differentiable", "foreach")}
            self._require_legal(group)
            groups.append(group)

        # Optimizer would round floating-point state to the dtype of the parameter.
        params = {
            index: param
            for own, saved in zip(self.param_groups, groups, strict=False)
            for index, param in zip(saved["params"], own["params"], strict=False)
        }
        state = dict(state_dict["state"])
        for index, param in params.items():
            if index not in state:
                continue
            state[index] = dict(state[index])
            for key, value in state[index].items():
                if key == "step" and isinstance(value, Tensor):
                    state[index][key] = _Loaded(value.detach().clone())
                elif key in _KEPT:
                    state[index][key] = _Loaded(_like(param, value, f"state[{index}][{key!r}]"))
        return {**state_dict, "param_groups": groups + state_dict["param_groups"][len(groups) :], "state": state}

    def _require_legal(self, group: _Group) -> None:
        self._kernel.require_legal(group)
        reasons = {
            "capturable": "there are no CUDA graphs on the CPU",
            "differentiable": "a fused step has no derivative",
        }
        for key, reason in reasons.items():
            if group[key]:
                raise ValueError(
                    f"{key}: expected False, got {group[key]!r}: {reason}; torch.optim.RMSprop has this option"
                )

    def _norm_over_processes(self) -> float | None:
        """Return the norm of the whole gradient if this process has only parts of it.

        Gradients that are no DTensors are taken to be the same in all processes.
        """
        params = [param for group in self.param_groups for param in group["params"]]
        if not any(_is_dtensor(param) for param in params):
            return None
        # torch.nn.utils.get_total_norm takes one mesh only, and rounds to the dtype of the gradients.
        norms: dict[Any, list[Tensor]] = {}
        for param in params:
            if (grad := param.grad) is not None:
                grad = grad.detach()
                mesh = grad.device_mesh if _is_dtensor(grad) else None
                dtype = torch.complex128 if grad.is_complex() else torch.float64
                norms.setdefault(mesh, []).append(torch.linalg.vector_norm(grad, dtype=dtype))
        totals: list[Any] = [torch.linalg.vector_norm(torch.stack(of_mesh)) for of_mesh in norms.values()]
        return math.hypot(*(float(total.full_tensor() if _is_dtensor(total) else total) for total in totals))

    @torch.no_grad()
    def _fit(
        self, before: dict[Tensor, _State | None], group_index: int, index: int, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return tensors that the kernel can take for a parameter, or raise what is wrong with those that are there.

        They become its state; what was its state goes into `before`.
        """
        group = self.param_groups[group_index]
        param = group["params"][index]
        name = _name(group, group_index, index)
        plain = _plain(param, name)
        _require_dense(plain, name)
        gradient = _fitting_gradient(grad, param, plain, f"{name}.grad")
        given = self.state.get(param)
        if given is not None and not isinstance(given, dict):
            raise TypeError(f"the state of {name}: expected a dict, got {given!r}")
        state = dict(given or {})
        _complete(state, param, plain, group, name)
        before.setdefault(param, given)  # the first one, should a parameter come twice
        self.state[param] = state
        first = "variance" if group["centered"] else "square_avg"
        kept = (state.get(key) for key in (first, "grad_avg", "momentum_buffer"))
        return plain, gradient, state["step"], *(tensor if tensor is None else _plain(tensor, name) for tensor in kept)


@dataclass
class _Loaded:
    """A tensor that Optimizer.load_state_dict is to take as it is."""

    tensor: Tensor


def _make_kernel() -> _core.ParamGroups:
    return _core.param_groups(Tensor, torch._C._increment_version)


def _name(group: _Group, group_index: int, index: int) -> str:
    names = group.get("param_names")
    return str(names[index]) if names else f"param_groups[{group_index}]['params'][{index}]"


def _is_dtensor(tensor: Tensor) -> bool:
    module = sys.modules.get("torch.distributed.tensor")  # until somebody imports it, no tensor is one
    return module is not None and isinstance(tensor, module.DTensor)


def _require_cpu(tensor: Tensor, name: str) -> None:
    if tensor.device.type != "cpu":
        raise TypeError(
            f"{name}: expected a tensor on the CPU, got one on {tensor.device}; use torch.optim.RMSprop for that"
        )


def _require_shape(value: object, param: Tensor, name: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {value!r}")
    if value.shape != param.shape:
        raise ValueError(f"{name}: expected shape {tuple(param.shape)}, got {tuple(value.shape)}")


def _plain(tensor: Tensor, name: str) -> Tensor:
    """Return the real numbers in memory that a tensor stands for, without a copy; or raise why there are none."""
    local: Any = tensor
    if _is_dtensor(tensor):
        local = tensor.to_local()  # type: ignore[attr-defined]
        if hasattr(local, "wait"):  # a collective that is still under way
            local = local.wait()
    _require_cpu(local, name)
    if local.layout != torch.strided or local.is_nested:
        kind = "a nested one" if local.is_nested else f"one of layout {local.layout}"
        raise TypeError(f"{name}: expected a dense tensor, got {kind}")
    if local.dtype not in _KEPT_DTYPES:
        expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in _KEPT_DTYPES)
        raise TypeError(f"{name}: expected one of {expected}, got {str(local.dtype).removeprefix('torch.')}")
    if local.is_conj() or local.is_neg():
        raise TypeError(f"{name}: expected numbers as they are in memory, got a conjugated or negated view of others")
    if local.numel() > 0 and _address(local) == 0:
        kind = f"{type(local).__module__}.{type(local).__qualname__}"
        raise TypeError(f"{name}: expected a tensor with memory of its own, got a {kind} that wraps others")
    real: Tensor = torch.view_as_real(local) if local.is_complex() else local
    return real


def _address(tensor: Tensor) -> int:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # of wrappers that have no storage
        return 0


def _has_order(tensor: Tensor, like: Tensor) -> bool:
    return tensor.stride() == like.stride() or tensor.numel() == 0


def _require_dense(tensor: Tensor, name: str) -> None:
    # The copy has the same strides if, and only if, they are dense.
    if not _has_order(tensor, torch.empty_like(tensor, device="meta")):
        raise ValueError(
            f"{name}: expected dense memory, got shape {tuple(tensor.shape)} with strides {tensor.stride()}; make the "
            "parameter from tensor.contiguous()"
        )
    if tensor.data_ptr() % tensor.element_size() != 0:
        raise ValueError(f"{name}: expected memory aligned to {tensor.element_size()} bytes, got {tensor.data_ptr()}")


def _fitting_gradient(grad: Tensor, param: Tensor, plain: Tensor, name: str) -> Tensor:
    """Return the gradient in the memory order of its parameter, as a copy if it must be."""
    if grad.layout != torch.strided:
        raise RuntimeError(f"{name}: RMSprop does not support sparse gradients yet, got layout {grad.layout}")
    given: Any = grad
    _require_same_mesh(grad, param, name)
    if _is_dtensor(grad) and given.placements != param.placements:  # type: ignore[attr-defined]
        given = given.redistribute(placements=param.placements)  # type: ignore[attr-defined]
    real = _plain(given.resolve_conj().resolve_neg(), name)
    _require_shape(real, plain, name)
    is_half = real.dtype in (torch.float16, torch.bfloat16)
    if real.dtype != plain.dtype and not (is_half and plain.dtype == torch.float32):
        raise TypeError(f"{name}: expected {plain.dtype} as its parameter, got {real.dtype}")
    if _has_order(real, plain) and real.data_ptr() % real.element_size() == 0:
        return real
    return torch.empty_like(plain, dtype=real.dtype).copy_(real)


def _require_same_mesh(tensor: Any, param: Any, name: str) -> None:
    meshes = [x.device_mesh if _is_dtensor(x) else None for x in (tensor, param)]
    if meshes[0] != meshes[1]:
        kinds = ["a plain tensor" if mesh is None else f"a DTensor on {mesh}" for mesh in meshes]
        raise TypeError(f"{name}: expected {kinds[1]} as its parameter, got {kinds[0]}")


@torch.no_grad()
def _full_like(param: Tensor, number: float) -> Tensor:
    """Return a tensor to be kept for a parameter: in its memory order, of its compute type, all this number."""
    kept = torch.empty_like(param, dtype=_KEPT_DTYPES[param.dtype], memory_format=torch.preserve_format)
    return kept.fill_(complex(number, number) if param.is_complex() else number)


@torch.no_grad()
def _like(param: Tensor, values: Any, name: str) -> Tensor:
    """Return such a tensor with these values."""
    _require_shape(values, param, name)
    _require_same_mesh(values, param, name)
    if values.layout != torch.strided or values.is_meta:
        raise TypeError(f"{name}: expected a dense tensor with values, got one of {values.layout} on {values.device}")
    return _full_like(param, 0).copy_(values)


def _squares(tensor: Tensor) -> Tensor:
    """Return the squares, for complex numbers those of both parts."""
    if tensor.is_complex():
        return torch.view_as_complex(torch.view_as_real(tensor).square())
    return tensor.square()


def _add_square_avg(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    for index, state in state_dict["state"].items():
        if "variance" in state and "grad_avg" in state and "square_avg" not in state:
            state_dict["state"][index] = {
                "step": state["step"],
                "square_avg": state["variance"] + _squares(state["grad_avg"]),
                **state,
            }


def _variance(state: _State, param: Tensor) -> Tensor:
    """Return the variance that belongs to a square_avg."""
    square_avg = state["square_avg"]
    squares = _squares(state["grad_avg"])
    real = torch.view_as_real if param.is_complex() else torch.Tensor.detach
    variance = real(square_avg - squares).clamp(min=0)
    if "variance" in state:
        # Others change square_avg and know nothing of the variance: it is worth something where both still agree.
        saved = state["variance"]
        variance = torch.where(real(saved + squares) == real(square_avg), real(saved), variance)
    return torch.view_as_complex(variance) if param.is_complex() else variance


def _step_count(step: Any, name: str) -> Tensor:
    """Return a step count that the kernel can count on: the one that is given, if it can."""
    expected = "a finite number of at least 0, or a tensor of one"
    is_one = isinstance(step, Tensor) and step.numel() == 1 and not step.is_meta and not step.is_complex()
    if not (is_one or isinstance(step, (int, float))):
        raise TypeError(f"{name}: expected {expected}, got {step!r}")
    count = float(step)
    if not (math.isfinite(count) and count >= 0):
        raise ValueError(f"{name}: expected {expected}, got {step!r}")
    if (
        type(step) is Tensor
        and step.dtype in (torch.float32, torch.float64)
        and step.device.type == "cpu"
        and step.layout == torch.strided
        and not step.is_neg()
        and step.data_ptr() % step.element_size() == 0
    ):
        return step
    return torch.tensor(count, dtype=torch.promote_types(torch.get_default_dtype(), torch.float32))


def _complete(state: _State, param: Tensor, plain: Tensor, group: _Group, name: str) -> None:
    """Put into the state of a parameter what a step needs, in the form that it needs."""
    state["step"] = _step_count(state.get("step", 0), f"the state of {name}['step']")
    for key in _KEPT:
        if key in state:
            state[key] = _fitting_kept(state[key], param, plain, f"the state of {name}[{key!r}]")

    if group["centered"]:
        if "grad_avg" not in state:
            state["grad_avg"] = _full_like(param, 0.0)
        if "square_avg" in state:
            state["variance"] = _variance(state, param)
            del state["square_avg"]
    elif "variance" in state:
        if "square_avg" not in state and "grad_avg" in state:
            state["square_avg"] = state["variance"] + _squares(state["grad_avg"])
        del state["variance"]

    key = "variance" if group["centered"] else "square_avg"
    if key not in state:
        state[key] = _full_like(param, group["initial_s"])
    if group["momentum"] > 0 and "momentum_buffer" not in state:
        state["momentum_buffer"] = _full_like(param, 0.0)


def _fitting_kept(kept: Any, param: Tensor, plain: Tensor, name: str) -> Tensor:
    """Return what is kept for a parameter, as a copy if it does not have its layout and compute type."""
    copy = functools.partial(_like, param, kept, name)
    _require_shape(kept, param, name)
    if kept.dtype != _KEPT_DTYPES[param.dtype] or kept.device.type != "cpu" or kept.layout != torch.strided:
        return copy()
    _require_same_mesh(kept, param, name)
    local = _plain(kept, name)
    fits = local.shape == plain.shape and _has_order(local, plain) and local.data_ptr() % local.element_size() == 0
    fitting: Tensor = kept if fits else copy()
    return fitting
