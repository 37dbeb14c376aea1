"""Lazy steps, ``lazy='catch_up'``: what rows have missed since gradients last touched them, and how they catch up.

Kept for a parameter is in which step each row was touched last, counted from 1. Behind the rows come the number of
steps so far, and the bits of alpha in these steps, which may be another one in the next.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

KEY = "last_touched"


def nothing_missed(numbers: Tensor, alpha: float) -> Tensor:
    """Return what is kept for a parameter, given as numbers in memory, all rows of which are up to date."""
    rows = numbers.shape[0] if numbers.ndim > 0 and width_of_rows(numbers) is not None else 1
    return torch.cat([torch.zeros(rows + 1, dtype=torch.int64), _bits(alpha)])


def is_up_to_date(last_touched: Tensor, alpha: float) -> bool:
    """Tell whether the steps so far were taken with this alpha."""
    return torch.equal(last_touched[-1:], _bits(alpha))


@torch.no_grad()
def catch_up(square_avg: Tensor, last_touched: Tensor) -> None:
    """Let all rows decay by the steps that they have missed, in place."""
    rows, steps, bits = last_touched[:-2], last_touched[-2], last_touched[-1:]
    factors = bits.view(torch.float64) ** (steps - rows).double()
    shape = [len(rows), *[1] * (square_avg.ndim - 1)][: square_avg.ndim]
    square_avg.mul_(factors.to(square_avg.dtype).reshape(shape))
    rows.copy_(steps)


def width_of_rows(numbers: Tensor, axes: int = 1) -> int | None:
    """Return how many elements a row has, counted along the first axes; None if rows do not lie one after another."""
    width = expected = math.prod(numbers.shape[axes:])
    for axis in reversed(range(axes)):
        if numbers.shape[axis] != 1 and numbers.stride(axis) != expected and numbers.numel() > 0:
            return None
        expected *= numbers.shape[axis]
    return width


def _bits(alpha: float) -> Tensor:
    return torch.tensor([float(alpha)], dtype=torch.float64).view(torch.int64)
