"""Parameters for optimizers of PyTorch, with gradients; and their numbers."""

from __future__ import annotations

import io
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import pytest
import torch

from bits import Array, same_bits
from tolerances import TOLERANCE, TOLERANCE_FLOAT64

Tensor: TypeAlias = Any
Options: TypeAlias = dict[str, Any]

HALVES = [torch.bfloat16, torch.float16]
DTYPES = [torch.float32, torch.float64, *HALVES, torch.complex64, torch.complex128]
TOLERANCES = {
    torch.float32: TOLERANCE,
    torch.float64: TOLERANCE_FLOAT64,
    torch.complex64: TOLERANCE,
    torch.complex128: TOLERANCE_FLOAT64,
}


def pytorchs_cases() -> Any:
    """Return what PyTorch's own tests of RMSprop are made from."""
    common = pytest.importorskip("torch.testing._internal.common_optimizers")
    return next(info for info in common.optim_db if info.optim_cls is torch.optim.RMSprop)


def parameter(*shape: int, dtype: Any = torch.float32) -> Tensor:
    """Return a parameter that has a gradient."""
    param = torch.randn(shape, dtype=dtype).requires_grad_()
    renew(param)
    return param


def renew(*params: Tensor) -> None:
    """Give parameters new gradients."""
    for param in params:
        param.grad = torch.randn(param.shape, dtype=param.dtype)


def magnitudes(shape: tuple[int, ...], dtype: Any) -> Tensor:
    """Return numbers of any sign, from 1e-3 to 10."""
    real = 10 ** (4 * torch.rand(shape, dtype=torch.float64) - 3) * torch.randint(0, 2, shape).mul(2).sub(1)
    if dtype.is_complex:
        return torch.complex(real, torch.randn(shape, dtype=torch.float64)).to(dtype)
    return real.to(dtype)


def numbers(tensor: Tensor) -> Array:
    """Return the numbers of a tensor as an array, and those of a complex one in a last axis of two."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    if plain.dtype == torch.bfloat16:
        plain = plain.view(torch.int16)
    found: Array = plain.numpy()
    return found.view(ml_dtypes.bfloat16) if tensor.dtype == torch.bfloat16 else found


def flat(params: list[Tensor]) -> Array:
    return np.concatenate([numbers(param).ravel().astype(np.float64) for param in params])


def misaligned(tensor: Tensor) -> Tensor:
    """Return the same numbers in memory that begins one byte after where it should."""
    memory = bytearray(b"x" + numbers(tensor).tobytes())
    return torch.frombuffer(memory, dtype=tensor.dtype, offset=1).view(tensor.shape)


def through_a_file(saved: Any) -> Any:
    """Return what loads from a file into which it is saved."""
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same_numbers(ours: Any, theirs: Any) -> bool:
    """Are these two trees of dicts, lists, tensors and others the same, with tensors equal to the byte?"""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same_numbers(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same_numbers, ours, theirs))
    if isinstance(ours, torch.Tensor):
        return ours.dtype == theirs.dtype and same_bits(numbers(ours), numbers(theirs))
    return bool(ours == theirs)
