"""The containers of a state's trees: made anew at each access, so that a change would be lost, and refused."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NoReturn

__all__ = ["FROZEN"]

CHANGES = [
    *("__init__", "__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"),
    *("__iadd__", "__imul__", "append", "extend", "insert", "remove", "reverse", "sort", "move_to_end"),
]


def _refuse(*_arguments: Any, **_named: Any) -> NoReturn:
    raise TypeError(
        "expected a whole tree to be assigned, as in state.lr = tree, or an array to be written into, as in "
        "state.s['w'][...] = values; got a change of a container, which a state makes anew at each access"
    )


def _freeze(name: str, base: type) -> type:
    """Make a subclass of `base` that refuses to be changed. Calling it, copying and pickling give a plain `base`."""
    members: dict[str, Any] = {change: _refuse for change in CHANGES if hasattr(base, change)}
    members["__slots__"] = ()
    members["__new__"] = lambda _, *arguments, **named: base(*arguments, **named)
    members["__reduce_ex__"] = lambda self, _: (base, (base(self),))
    return type(name, (base,), members)


# For each plain container its frozen one.
FROZEN: dict[type, type] = {
    dict: _freeze("FrozenDict", dict),
    list: _freeze("FrozenList", list),
    OrderedDict: _freeze("FrozenOrderedDict", OrderedDict),
}
