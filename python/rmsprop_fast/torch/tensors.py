"""What the kernel takes: plain numbers in dense memory, in the order and the types that their parameter asks for."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rmsprop_fast import _core
from rmsprop_fast.torch.lazy import width_of_rows

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)


class Param(NamedTuple):
    """A parameter that the kernel can take, which its gradient and its state must fit."""

    tensor: Tensor  # as it is in its group
    plain: Tensor  # its numbers in memory
    name: str
    with_gaps: Tensor | None  # what `plain` is to become a copy of, and to be copied to


def require_cpu(tensor: Tensor, name: str) -> None:
    """Raise if the tensor is on another device."""
    if tensor.device.type != "cpu":
        raise TypeError(
            f"{name}: expected a tensor on the CPU, got one on {tensor.device}; use torch.optim.RMSprop for that"
        )


def plain(tensor: Tensor, name: str) -> Tensor:
    """Return the real numbers in memory that a tensor stands for, without a copy; or raise why there are none."""
    local = _local(tensor)
    require_cpu(local, name)
    if local.layout != torch.strided or local.is_nested:
        kind = "a nested one" if local.is_nested else f"one of layout {local.layout}"
        raise TypeError(f"{name}: expected a dense tensor, got {kind}")
    if local.dtype not in _DTYPES:
        expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise TypeError(f"{name}: expected one of {expected}, got {str(local.dtype).removeprefix('torch.')}")
    if local.is_conj() or local.is_neg():
        raise TypeError(f"{name}: expected numbers as they are in memory, got a conjugated or negated view of others")
    numbers = real(local)
    if _core.misfit("param", numbers, numbers) == "memory":
        kind = f"{type(local).__module__}.{type(local).__qualname__}"
        raise TypeError(f"{name}: expected a tensor with memory of its own, got a {kind} that wraps others")
    return numbers


def real(tensor: Tensor) -> Tensor:
    """Return the real numbers of a tensor, in the same memory: of complex ones, both parts in a last axis of two."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def fitting_param(tensor: Tensor, name: str) -> Param:
    """Return the parameter, or raise why it cannot be updated in place."""
    numbers = plain(tensor, name)
    why = _core.misfit("param", numbers, numbers)
    if why == "gaps":
        return Param(tensor, plain(torch.empty_like(tensor), name), name, numbers)
    if why == "overlap":
        raise ValueError(
            f"{name}: expected elements apart from each other, got shape {tuple(numbers.shape)} with strides "
            f"{numbers.stride()}; make the parameter from tensor.contiguous()"
        )
    if why == "address":
        raise ValueError(f"{name}: expected memory aligned to {numbers.element_size()} bytes, got {numbers.data_ptr()}")
    return Param(tensor, numbers, name, None)


def fitting_gradient(grad: Tensor, param: Param) -> Tensor:
    """Return the numbers of the gradient in the memory order of its parameter, as a copy if it must be."""
    name = f"{param.name}.grad"
    _require_same_mesh(grad, param.tensor, name)
    given: Any = grad
    if is_distributed(grad) and given.placements != param.tensor.placements:  # type: ignore[attr-defined]
        given = given.redistribute(placements=param.tensor.placements)  # type: ignore[attr-defined]
    numbers = plain(given.resolve_conj().resolve_neg(), name)
    _require_shape(numbers, param.plain, name)
    _require_type(numbers, param.plain, name)
    if _core.misfit("grad", numbers, param.plain) is None:
        return numbers
    return torch.empty_like(param.plain, dtype=numbers.dtype).copy_(numbers)


def fitting_rows(grad: Tensor, param: Param, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the values of a sparse gradient, in the memory order of its parameter's rows, and its indices."""
    name = f"{param.name}.grad"
    if is_distributed(param.tensor):
        raise TypeError(f"{name}: expected a dense gradient of a DTensor, got one of layout {grad.layout}")
    _require_shape(grad, param.tensor, name)
    axes, numbers = grad.sparse_dim(), param.plain
    for option in ("rowwise", "lazy"):
        if axes != 1 and options[option] in (True, "catch_up"):
            raise TypeError(f"{name}: expected rows with {option}={options[option]!r}, got {axes} sparse axes")
    width = width_of_rows(numbers, axes)
    if width is None or axes == 0:
        raise ValueError(
            f"{name}: expected a parameter whose first axes, {axes} of them, are the outermost in memory, got shape "
            f"{tuple(numbers.shape)} with strides {numbers.stride()}"
        )
    values = plain(grad._values().resolve_conj().resolve_neg(), name)
    _require_type(values, numbers, name)
    strides = (width, *numbers.stride()[axes:])
    if len(values) > 0 and values.stride() != strides:
        values = torch.empty_strided(values.shape, strides, dtype=values.dtype).copy_(values)
    return values, grad._indices()


def like_kept(param: Tensor, name: str, *, by_row: bool) -> Tensor:
    """Return a tensor of the shape and memory order of what is kept for a parameter: itself, or one number a row."""
    if not by_row:
        return param
    if is_distributed(param) or param.is_complex():
        kind = "a DTensor" if is_distributed(param) else str(param.dtype)
        raise TypeError(f"{name}: expected a tensor of real numbers in this process with rowwise=True, got {kind}")
    if param.ndim > 0 and width_of_rows(param) is None:
        raise ValueError(
            f"{name}: expected a first axis that is the outermost in memory with rowwise=True, got shape "
            f"{tuple(param.shape)} with strides {param.stride()}"
        )
    return param.detach().new_empty([*param.shape[:1], *[1] * (param.ndim - 1)])


def fitting_kept(kept: Any, param: Param, like: Tensor, name: str) -> Tensor:
    """Return what is kept for a parameter, as a copy if it does not have its memory order and compute type."""
    _require_shape(kept, like, name)
    _require_same_mesh(kept, param.tensor, name)
    numbers = _local(kept)
    part = "kept" if like is param.tensor else "by_row"
    if numbers.is_conj() or numbers.is_neg() or _core.misfit(part, real(numbers), param.plain):
        return kept_copy(kept, like, name)
    return kept  # type: ignore[no-any-return]


def kept_copy(values: Any, like: Tensor, name: str) -> Tensor:
    """Return a new tensor to be kept for a parameter, with these values."""
    _require_shape(values, like, name)
    _require_same_mesh(values, like, name)
    if values.layout != torch.strided or values.is_meta:
        raise TypeError(f"{name}: expected a dense tensor with values, got one of {values.layout} on {values.device}")
    return _empty_kept(like).copy_(values)


def kept_full(like: Tensor, number: float) -> Tensor:
    """Return a new tensor to be kept for a parameter, all this number, and so is the imaginary part."""
    return _empty_kept(like).fill_(complex(number, number) if like.is_complex() else number)


def fitting_step_count(step: Any, name: str) -> Tensor:
    """Return a step count that the kernel can count on: the one that is given, if it can."""
    expected = "a finite number of at least 0, or a tensor of one"
    is_one = isinstance(step, Tensor) and step.numel() == 1 and not step.is_meta and not step.is_complex()
    if not (is_one or isinstance(step, (int, float))):
        raise TypeError(f"{name}: expected {expected}, got {step!r}")
    count = float(step)
    if not (math.isfinite(count) and count >= 0):
        raise ValueError(f"{name}: expected {expected}, got {step!r}")
    if isinstance(step, Tensor) and not step.is_neg() and _core.misfit("step", step, step) is None:
        return step
    return torch.tensor(count, dtype=torch.promote_types(torch.get_default_dtype(), torch.float32))


def norm_over_processes(params: list[Tensor]) -> float | None:
    """Return the norm of the whole gradient of which this process has only parts; None if it has all of it.

    Gradients that are no DTensors are taken to be the same in all processes.
    """
    if not any(is_distributed(param) for param in params):
        return None
    # torch.nn.utils.get_total_norm takes one mesh only, and rounds to the dtype of the gradients.
    norms: dict[Any, list[Tensor]] = {}
    for param in params:
        if (grad := param.grad) is not None:
            dtype = torch.complex128 if grad.is_complex() else torch.float64
            if grad.layout == torch.sparse_coo:
                grad = grad.coalesce().values()
            norms.setdefault(_mesh(grad), []).append(torch.linalg.vector_norm(grad.detach(), dtype=dtype))
    totals: list[Any] = [torch.linalg.vector_norm(torch.stack(of_mesh)) for of_mesh in norms.values()]
    return math.hypot(*(float(total.full_tensor() if is_distributed(total) else total) for total in totals))


def is_distributed(tensor: Tensor) -> bool:
    """Tell whether it is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")  # until somebody imports it, no tensor is one
    return module is not None and isinstance(tensor, module.DTensor)


def _local(tensor: Any) -> Any:
    """Return this process's part of a tensor."""
    if not is_distributed(tensor):
        return tensor
    local = tensor.to_local()
    return local.wait() if hasattr(local, "wait") else local  # for a collective that is still under way


def _empty_kept(like: Tensor) -> Tensor:
    return torch.empty_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


def _require_type(gradient: Tensor, param: Tensor, name: str) -> None:
    nothing = param.detach().flatten()[:0]

    def fits(dtype: torch.dtype) -> bool:
        return _core.misfit("grad", nothing.to(dtype), nothing) is None

    if not fits(gradient.dtype):
        raise TypeError(f"{name}: expected {' or '.join(str(t) for t in _DTYPES if fits(t))}, got {gradient.dtype}")


def _require_shape(value: object, like: Tensor, name: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {value!r}")
    if value.shape != like.shape:
        raise ValueError(f"{name}: expected shape {tuple(like.shape)}, got {tuple(value.shape)}")


def _mesh(tensor: Any) -> Any:
    return tensor.device_mesh if is_distributed(tensor) else None


def _require_same_mesh(tensor: Tensor, param: Tensor, name: str) -> None:
    given, expected = _mesh(tensor), _mesh(param)
    if given != expected:
        kinds = ["a plain tensor" if mesh is None else f"a DTensor on {mesh}" for mesh in (expected, given)]
        raise TypeError(f"{name}: expected {kinds[0]} as its parameter, got {kinds[1]}")
