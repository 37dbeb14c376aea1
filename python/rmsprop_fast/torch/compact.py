"""Compact state, ``state_dtype`` and ``low_bits``: tensors that keep fewer bytes for a parameter than float32 has.

Means are a bfloat16 tensor in the form of the parameter; or one of uint8, with codes in the order of memory and the
exponents of their blocks behind them. Then the state also has a `LAYOUT`: the shape and the strides of the parameter
at that time. The bits below those of bfloat16 parameters are of uint8 or int16, in the form of the parameter: not of
uint16, which pickle does not take.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from rmsprop_fast import _core
from rmsprop_fast.torch.tensors import is_distributed

LOW = "low_order_bits"
LAYOUT = "layout"
_SIGNED = ("grad_avg", "momentum_buffer")


def require_compact(param: Tensor, name: str, group: dict[str, Any]) -> None:
    """Raise if the state of the parameter cannot be compact in the way that the group asks for."""
    dtype = group.get("state_dtype")
    if dtype is not None and param.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        given = str(param.dtype).removeprefix("torch.")
        raise TypeError(f"{name}: expected float32, float16 or bfloat16 with state_dtype={dtype!r}, got {given}")
    if is_distributed(param) and (dtype == "uint8" or has_low_bits(param, group)):
        option = f"state_dtype={dtype!r}" if dtype == "uint8" else f"low_bits={group['low_bits']}"
        raise TypeError(f"{name}: expected a tensor in this process with {option}, got a DTensor")


def has_low_bits(param: Tensor, group: dict[str, Any]) -> bool:
    """Tell whether bits below those of the parameter are kept."""
    return group.get("low_bits", 0) > 0 and param.dtype == torch.bfloat16


def layout_of(dense: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape and the strides of a parameter in dense memory."""
    return tuple(dense.shape), tuple(dense.stride())


def is_packed(state: dict[str, Any], key: str, dense: Tensor, dtype: str) -> bool:
    """Tell whether that part of the state can be what is kept in this dtype for a parameter in dense memory."""
    kept = state.get(key)
    if not isinstance(kept, Tensor) or kept.layout != torch.strided or kept.device.type != "cpu":
        return False
    if dtype == "uint8":
        is_whole = kept.shape == (_core.code_bytes(dense),) and kept.stride() == (1,)
        return kept.dtype == torch.uint8 and is_whole and state.get(LAYOUT) == layout_of(dense)
    return kept.dtype == torch.bfloat16 and is_distributed(kept) == is_distributed(dense) and _has_form(kept, dense)


def low_bits(kept: Any, dense: Tensor, name: str, group: dict[str, Any]) -> Tensor:
    """Return the bits below those of a parameter, in its memory order; at first, when nothing is kept, zeros."""
    dtype = torch.uint8 if group["low_bits"] == 8 else torch.int16
    if kept is None:
        return torch.zeros_like(dense, dtype=dtype)
    if not isinstance(kept, Tensor) or kept.shape != dense.shape or kept.device.type != "cpu":
        given = f"{kept.dtype} of shape {tuple(kept.shape)}" if isinstance(kept, Tensor) else repr(kept)
        raise TypeError(f"{name}: expected {dtype} of shape {tuple(dense.shape)}, got {given}")
    if kept.dtype == torch.bfloat16:  # torch.optim.RMSprop rounds what it does not know to the dtype of the parameter
        warnings.warn(
            f"{name}: expected {dtype}, got torch.bfloat16, rounded by another optimizer; taken as 0", stacklevel=2
        )
        return torch.zeros_like(dense, dtype=dtype)
    if kept.dtype == dtype and _has_form(kept, dense):
        return kept
    if kept.dtype not in (torch.uint8, torch.int16):
        raise TypeError(f"{name}: expected {dtype} of shape {tuple(dense.shape)}, got {kept.dtype}")
    if kept.dtype != dtype:  # the upper 8 of 16, or the reverse
        kept = kept.int() << 8 if kept.dtype == torch.uint8 else kept.int() >> 8 & 0xFF
    return torch.empty_like(dense, dtype=dtype).copy_(kept)


def packed(numbers: Tensor, key: str, dense: Tensor, dtype: str) -> Tensor:
    """Return float32 numbers, in the memory order of the parameter, rounded to the nearest that can be kept."""
    if dtype == "bfloat16":
        return numbers.to(torch.bfloat16)
    codes = torch.empty(_core.code_bytes(dense), dtype=torch.uint8)
    _core.pack_codes(dense, numbers, codes, key in _SIGNED)
    return codes


def decoded(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with float32 numbers in the place of codes, in the memory order that they have."""
    if LAYOUT not in state:
        return state
    dense = torch.empty_strided(*state[LAYOUT])
    found = {key: kept for key, kept in state.items() if key != LAYOUT}
    for key, kept in found.items():
        if isinstance(kept, Tensor) and key != LOW and kept.dtype == torch.uint8:
            found[key] = torch.empty_like(dense)
            _core.unpack_codes(dense, kept, found[key], key in _SIGNED)
    return found


def _has_form(kept: Tensor, dense: Tensor) -> bool:
    """Tell whether it has the shape and strides of the parameter, and an address that a kernel can take."""
    is_aligned = kept.numel() == 0 or is_distributed(kept) or kept.data_ptr() % kept.element_size() == 0
    return kept.shape == dense.shape and kept.stride() == dense.stride() and is_aligned
