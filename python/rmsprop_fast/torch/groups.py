"""Parameter groups: what their parameters are called, and which of their options are not the defaults."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def name_of(group: dict[str, Any], group_index: int, index: int) -> str:
    """Return what messages call a parameter."""
    names = group.get("param_names")
    return str(names[index]) if names else f"param_groups[{group_index}]['params'][{index}]"


def is_default(key: str, value: object, defaults: dict[str, Any]) -> bool:
    """Say whether it is an option with its default value."""
    return key in defaults and not isinstance(value, Tensor) and bool(value == defaults[key])


def described(groups: list[dict[str, Any]], defaults: dict[str, Any]) -> str:
    """Return the options that are not the defaults, group by group, for people to read."""
    text = ""
    for index, group in enumerate(groups):
        text += f"\nParameter Group {index}\n"
        for key in sorted(group.keys() - {"params"}):
            if not is_default(key, group[key], defaults):
                text += f"    {key}: {group[key]}\n"
    return text
