"""The optimizer, as PyTorch and its users see it; steps are taken by `_core.ParamGroups`."""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import TYPE_CHECKING, Any, TypeVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from rmsprop_fast import _core
from rmsprop_fast.torch.checkpoint import as_torch_has_it, catch_up, prepared_to_load, take_loaded
from rmsprop_fast.torch.fitting import fitted
from rmsprop_fast.torch.groups import described, is_default, name_of
from rmsprop_fast.torch.tensors import norm_over_processes, require_cpu

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim.optimizer import ParamsT

_Loss = TypeVar("_Loss", float, Tensor)


class RMSprop(torch.optim.Optimizer):
    """`torch.optim.RMSprop` as one fused pass over all parameters, in place, on the CPU.

    Has the parameters and defaults of `torch.optim.RMSprop`, and options of its own. State dicts may be exchanged with
    it in both directions, in the middle of a training. Results differ by rounding; with ``centered`` the variance is
    kept itself, so it never turns negative.

    Parameters
    ----------
    params : iterable of tensors, of (name, tensor) pairs, or of dicts
        float32, float64, float16, bfloat16, complex64 or complex128, on the CPU, in any memory order; or DTensors with
        such shards. For float16 and bfloat16, computations and state are in float32; gradients of these and of float32
        may be of any of the three types (``param.grad_dtype``). A dict is a group with options of its own.
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
    capturable : bool, default False
        Has no meaning on the CPU, where there are no CUDA graphs; True gives a warning.
    foreach : bool, optional
        Has no meaning here, and is ignored.
    maximize : bool, default False
        Ascend.
    differentiable : bool, default False
        Must be False: a fused step has no derivative.
    fused : bool, optional
        None or True: every step is fused. It is no option of groups.
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
    lazy : str, default 'rows'
        What becomes of the rows that a sparse gradient does not have: 'rows', 'dense' or 'catch_up'.
    rowwise : bool, default False
        Keep one square_avg for each row of a parameter, the mean of its squares. Decided here, as ``lazy`` is.
    state_dtype : str, optional
        Keep the running means and the momentum buffer in 'bfloat16', or in 'uint8', as codes of 8 bits.
    rounding : str, default 'nearest'
        How half parameters and compact means are rounded: 'nearest', or 'stochastic', so that small changes count.
    low_bits : int, default 0
        How many bits below those of bfloat16 parameters are kept in the state: 0, 8 or 16. With 16, they are trained
        exactly as float32 parameters. Who writes into them sets these bits to 0, too.

    Raises
    ------
    TypeError, ValueError
        For options out of range or in contradiction, and parameters that are not on the CPU. Whatever else there is to
        say against a tensor, `step` does.

    Notes
    -----
    It is a `torch.optim.Optimizer`, but ``isinstance(optimizer, torch.optim.RMSprop)`` is False.

    ``max_grad_norm`` and ``skip_nonfinite`` are for the whole gradient, so they must be the same in all groups. Where
    parameters are DTensors, the norm is that over all processes. Of optimizers with one parameter each, as for steps in
    hooks of the backward pass, each clips its own gradient alone. `torch.distributed.optim.ZeroRedundancyOptimizer`
    gives each process an optimizer of some of the parameters, which knows nothing of the others: clip before the step.

    A gradient beyond 1.8e19 (1.3e154 for float64) has a square that overflows: square_avg becomes infinite, and the
    element never moves again. `torch.optim.RMSprop` multiplies by ``1 - alpha`` first, and comes to that at 1.8e20.
    ``skip_nonfinite``, ``clip_value=1e18`` or ``max_grad_norm`` prevent it.

    A parameter with gaps in its memory, such as ``weight[..., 0]``, is copied into dense memory, stepped there and
    copied back: that takes longer, and what other threads or processes write meanwhile is lost. In its gaps there must
    be nothing else that the step reads or writes, such as ``weight[..., 1]``.

    Options that `torch.optim.RMSprop` does not have are in ``param_groups``, and so in state dicts, only where they are
    given and are not the defaults. So `torch.distributed.checkpoint` loads checkpoints of either, with two exceptions
    when they come from `torch.optim.RMSprop`. Options of our own are missed: set them in ``param_groups`` after
    loading. With ``centered`` the variance is missed: use ``DefaultLoadPlanner(allow_partial_load=True)``, and no
    flattened state dict.

    Gradients may be sparse, of layout `torch.sparse_coo`, coalesced or not, as those of
    ``torch.nn.Embedding(..., sparse=True)``: then the rows that they have are stepped, once each, with what they have
    for it added up in the order in which it comes. With ``lazy='catch_up'``, ``square_avg`` is that of the step in
    which a row was touched last; `state_dict` brings all rows up to date, and so does a step with another alpha.

    State dicts have float32 numbers whatever ``state_dtype`` is, so `torch.optim.RMSprop` can load them. Loading them
    here gives back the same codes.

    `rmsprop_fast.State` has the equations and the sources of the options: ``help(rmsprop_fast.State.nesterov)``.
    """

    __module__ = "rmsprop_fast.torch"  # the public name, which is in pickles

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
        fused: bool | None = None,
        nesterov: bool = False,
        lr_in_momentum: bool = False,
        eps_inside_sqrt: bool = False,
        initial_s: float = 0,
        bias_correction: bool = False,
        decoupled_weight_decay: bool = False,
        clip_value: float | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        lazy: str = "rows",
        rowwise: bool = False,
        state_dtype: str | None = None,
        rounding: str = "nearest",
        low_bits: int = 0,
    ) -> None:
        given = {key: value for key, value in locals().items() if key in _DEFAULTS}
        self._kernel = _make_kernel()
        if fused not in (None, True):
            raise ValueError(f"fused: expected None or True, got {fused!r}: every step is fused")
        self._require_legal(given)  # before a generator of parameters is used up
        unused = {key for key, value in given.items() if key in _NEUTRAL and is_default(key, value, _DEFAULTS)}
        super().__init__(params, {key: given[key] for key in given if key not in unused})

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
    def step(self, closure: Callable[[], _Loss]) -> _Loss: ...
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
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
            If another thread is in a step of this optimizer.
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

    def _update(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        before: dict[Tensor, dict[str, Any] | None] = {}
        fit = functools.partial(fitted, self.param_groups, self.state, _NEUTRAL, before)
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

    _opaque_update: Callable[..., Any] = torch.compiler.disable(_update)  # type: ignore[no-untyped-call]
    _observed_update: Callable[..., Any] = torch.compiler.disable(  # type: ignore[no-untyped-call]
        torch.optim.Optimizer.profile_hook_step(_update)
    )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as `torch.optim.Optimizer.add_param_group`, or raise what is wrong with it."""
        super().add_param_group(param_group)
        try:
            self._require_legal(param_group)
            for index, param in enumerate(param_group["params"]):
                if param.device.type != "meta":  # which may get its memory later
                    require_cpu(param, name_of(param_group, len(self.param_groups) - 1, index))
        except BaseException:
            self.param_groups.pop()
            raise
        if param_group["capturable"]:
            warnings.warn("capturable: has no meaning on the CPU, where there are no CUDA graphs", stacklevel=2)

    def __repr__(self) -> str:
        """Show the options that are not the defaults, group by group."""
        return f"{type(self).__name__} ({described(self.param_groups, _DEFAULTS)})"

    def state_dict(self) -> dict[str, Any]:
        """Return the state as `torch.optim.Optimizer.state_dict`; `torch.optim.RMSprop` can load it.

        With ``centered`` it has ``square_avg``, which is ``variance + grad_avg**2``, and also ``variance``. With
        ``lazy='catch_up'`` all rows catch up first, so that it has nothing that `torch.optim.RMSprop` does not know.
        """
        catch_up(self.state)
        handle = self.register_state_dict_post_hook(as_torch_has_it, prepend=True)
        try:
            return super().state_dict()
        finally:
            handle.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a copy of a state dict, also one of `torch.optim.RMSprop`. Options that it lacks stay as they are.

        Raises
        ------
        TypeError, ValueError
            If groups or shapes differ from those here, or values cannot be taken; nothing has changed then.
        """
        prepare = functools.partial(prepared_to_load, options=_DEFAULTS, require_legal=self._require_legal)
        handle = self.register_load_state_dict_pre_hook(prepare)  # the last one
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_kernel" not in self.__dict__:
            self._kernel = _make_kernel()
        for group in self.param_groups:
            for key in ("momentum", "centered", "capturable", "foreach", "maximize", "differentiable"):  # as torch
                group.setdefault(key, _DEFAULTS[key])
        take_loaded(self.state)

    def _require_legal(self, group: dict[str, Any]) -> None:
        self._kernel.require_legal(group)
        if group["differentiable"]:
            raise ValueError(
                f"differentiable: expected False, got {group['differentiable']!r}: a fused step has no derivative; "
                "torch.optim.RMSprop has this option"
            )

    def _norm_over_processes(self) -> float | None:
        return norm_over_processes([param for group in self.param_groups for param in group["params"]])


_PARAMETERS = inspect.signature(RMSprop).parameters
_DEFAULTS = {key: parameter.default for key, parameter in _PARAMETERS.items() if key not in ("params", "fused")}
# Those that torch.optim.RMSprop does not have. A group without one of them is as if it had this value, so that its
# checkpoints load here, and today's when there are more of them.
_NEUTRAL = {
    key: default for key, default in _DEFAULTS.items() if _PARAMETERS[key].kind == inspect.Parameter.KEYWORD_ONLY
}


def _make_kernel() -> _core.ParamGroups:
    return _core.param_groups(_NEUTRAL, torch._C._increment_version)
