"""All legal combinations of hyper-parameters."""

from __future__ import annotations

import itertools
from typing import Any

# One of each row. What is left out is illegal: see test_all_or_nothing.py.
MOMENTUM: list[dict[str, Any]] = [
    {},
    {"lr_in_momentum": True},
    {"momentum": 0.9},
    {"momentum": 0.9, "lr_in_momentum": True},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "lr_in_momentum": True},
]
OTHERS: list[list[dict[str, Any]]] = [
    [{}, {"eps_inside_sqrt": True}],
    [{}, {"initial_s": 1.0}, {"bias_correction": True}],
    [{}, {"weight_decay": 0.3}, {"weight_decay": 0.3, "decoupled": True}],
    [{}, {"maximize": True}],
    [{}, {"grad_scale": 3.0}],
    [{}, {"clip_value": 0.7}, {"clip_norm": 2.0}, {"clip_global_norm": 3.0}],
    [{}, {"skip_nonfinite": True}],
    [{"lr": 0.01}, {"lr": "arrays"}],
]


def combinations(*rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for part in parts for key, value in part.items()} for parts in itertools.product(*rows)]
