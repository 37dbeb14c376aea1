"""What the kernel asks for when tensors are new to it, or do not fit: tensors that it can take in their place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rmsprop_fast.torch import lazy
from rmsprop_fast.torch.checkpoint import KEPT, completed
from rmsprop_fast.torch.compact import LOW
from rmsprop_fast.torch.groups import name_of
from rmsprop_fast.torch.tensors import fitting_gradient, fitting_param, fitting_rows, plain


@torch.no_grad()
def fitted(
    groups: list[dict[str, Any]],
    states: dict[Tensor, dict[str, Any]],
    neutral: dict[str, Any],
    before: dict[Tensor, dict[str, Any] | None],
    group_index: int,
    index: int,
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return tensors that the kernel can take for a parameter, or raise what is wrong with those that are there.

    They become its state; what was its state goes into `before`. `neutral` has the options that a group may lack.
    """
    group = neutral | groups[group_index]
    param = fitting_param(group["params"][index], name_of(group, group_index, index))
    is_sparse = grad.layout == torch.sparse_coo
    gradient, indices = fitting_rows(grad, param, group) if is_sparse else (fitting_gradient(grad, param), None)
    given = states.get(param.tensor)
    state = completed(given, param, group)
    before.setdefault(param.tensor, given)  # the first one, should a parameter come twice
    states[param.tensor] = state
    is_packed = {key: key == LOW or group["state_dtype"] == "uint8" for key in KEPT}
    kept = ((state[key] if is_packed[key] else plain(state[key], param.name)) if key in state else None for key in KEPT)
    return param.plain, gradient, *kept, state["step"], state.get(lazy.KEY), param.with_gaps, indices
