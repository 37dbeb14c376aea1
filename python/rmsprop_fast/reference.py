"""The same update in plain NumPy: what the compiled kernel must equal byte for byte.

It checks nothing and is slow; it is here to be read, and to test against.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from rmsprop_fast._core import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["step", "step_size"]


def step(params: Any, grads: Any, state: State) -> None:
    """Update the parameters, in place, by one step of RMSprop; takes what `rmsprop_fast.step` takes.

    The equations are those of T. Tieleman and G. Hinton, "Lecture 6.5 - RMSProp", COURSERA, 2012, with eps outside the
    root.

    Parameters
    ----------
    params : array or tree of arrays
        float32 or float64, updated in place.
    grads : array or tree of arrays
        The gradients, in the same tree, shapes and dtypes.
    state : State
        Its `s` is updated in place, its `steps` grows by one.
    """
    for p, g, s, lr in _leaves(params, grads, state.s, state.lr):
        real = s.dtype.type  # the compute type: every operation below is rounded to it once
        rho, one_minus_rho = real(state.rho), real(1 - state.rho)
        with np.errstate(all="ignore"):
            s[...] = rho * s + one_minus_rho * (g * g)
            p[...] = p - _step_size(s, lr, state.eps) * g
    state.steps += 1


def step_size(state: State) -> Any:
    """Step size of each parameter, lr / (sqrt(s) + eps), as the next step would use it if s stayed as it is.

    Parameters
    ----------
    state : State
        As made by `rmsprop_fast.init`.

    Returns
    -------
    array or tree of arrays
        New arrays in the tree, shapes and dtypes of the parameters. Where s and eps are both 0: inf, or NaN if lr is 0.

    Raises
    ------
    TypeError
        For anything but a state.
    """
    if not isinstance(state, State):
        raise TypeError(f"state: expected a rmsprop_fast.State, got {type(state).__name__}")
    with np.errstate(all="ignore"):
        return state._map(lambda s, lr: np.asarray(_step_size(s, lr, state.eps)))


def _step_size(s: NDArray[Any], lr: Any, eps: float) -> Any:
    real = s.dtype.type
    return (lr if isinstance(lr, np.ndarray) else real(lr)) / (np.sqrt(s) + real(eps))


def _leaves(*trees: Any) -> Iterator[tuple[Any, ...]]:
    """Walk trees of one shape in step; a number in place of a subtree belongs to all its leaves."""
    todo = [trees]
    while todo:
        nodes = todo.pop()
        if not isinstance(nodes[0], (dict, list, tuple)):
            yield nodes
            continue
        for key in nodes[0] if isinstance(nodes[0], dict) else range(len(nodes[0])):
            todo.append(tuple(node[key] if isinstance(node, (dict, list, tuple)) else node for node in nodes))
