"""The same update in plain NumPy: what the compiled kernel must equal byte for byte.

It checks nothing and is slow; it is here to be read, and to test against. Every operation on arrays is rounded once, to
the compute type: float64 for float64 and float32 for all others. Numbers are Python's floats, and rounded once, when
they meet an array.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from rmsprop_fast import stored
from rmsprop_fast._core import Rows, State

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["step", "step_size"]

BLOCK = 4096
LANES = 16


def step(params: Any, grads: Any, state: State) -> None:
    """Update the parameters, in place, by one step of RMSprop; takes what `rmsprop_fast.step` takes.

    The equations are those of T. Tieleman and G. Hinton, "Lecture 6.5 - RMSProp", COURSERA, 2012, with eps outside the
    root; the docstrings of `rmsprop_fast.State`'s attributes have the sources of the others.

    Parameters
    ----------
    params : array or tree of arrays
        Updated in place.
    grads : array or tree of arrays
        The gradients, in the same tree and shapes, or sparse ones; computed with in the compute type of their
        parameters. None: nothing of this leaf changes.
    state : State
        Its arrays are updated in place, its `steps` (or else `skipped`) grows by one.
    """
    names = ["variance" if state.centered else "s", "grad_avg", "momentum_buffer"]
    means = [getattr(state, name) for name in names]
    trees = _leaves(means[0], params, grads, *means[1:], state.low_order_bits, state.lr, state._last)
    with np.errstate(all="ignore"):
        leaves = [(s, p, *_gradient(g, p, s.dtype), *others) for s, p, g, *others in trees if g is not None and p.size]
        multipliers, clipping_norms = _multipliers([g for _, _, g, *_ in leaves], state)
        if state.skip_nonfinite and not (
            np.isfinite(clipping_norms).all()
            and all(
                _has_finite_squares(s.dtype.type(multiplier) * g.astype(s.dtype))
                for multiplier, (s, _, g, *_) in zip(multipliers, leaves, strict=True)
            )
        ):
            state.skipped += 1
            return
        for multiplier, (s, p, g, touched, m, b, low, lr, last) in zip(multipliers, leaves, strict=True):
            if last is not None:
                _catch_up(state, s, last, touched)
            if touched is not None and state.lazy == "dense":
                zeros = np.zeros(p.shape, g.dtype)
                zeros[touched] = g
                g, touched = zeros, None
            at: Any = ... if touched is None else touched
            for mean in (s, m, b):
                if mean is not None and state.state_dtype is not None:
                    mean.setflags(write=True)  # a copy, to be assigned below
            arrays = (s, m, b, p, low)
            now: list[Any] = [None if array is None else array[at] for array in arrays]
            order = sorted(range(p.ndim), key=lambda axis: -p.strides[axis])
            lr = lr[at] if isinstance(lr, np.ndarray) else lr
            numbers = now[3].astype(s.dtype) if low is None else stored.join(now[3], now[4])
            numbers = _update(state, multiplier, now[0], numbers, g, now[1], now[2], lr, order)
            _store(state, now, numbers, stored.places_in_memory(p)[at], stored.row_width(p))
            for array, changed in zip(arrays, now, strict=True):
                if array is not None:
                    array[at] = changed
    if state.state_dtype is not None:
        for name, tree in zip(names, means, strict=True):
            if tree is not None:
                setattr(state, name, tree)
    state.steps += 1


def _gradient(g: Any, params: NDArray[Any], real: Any) -> tuple[NDArray[Any], Any]:
    """Return the gradient as an array, and where in the parameter it belongs if it is sparse, or else None.

    A number, as that of a 0-d parameter may be, is rounded to the parameter's dtype. What a sparse gradient has more
    than once is added up in the order in which it comes, in the compute type; rows then are in order.
    """
    touched: Any
    if isinstance(g, np.ndarray):
        return g, None
    if isinstance(g, Rows):
        rows, first, inverse = np.unique(g.rows, return_index=True, return_inverse=True)
        values, touched = g.values, rows
    elif hasattr(g, "format"):  # of scipy.sparse; elements are in the order of memory
        g = g.tocoo() if g.format != "coo" else g
        values, strides = g.data, np.array(params.strides) // params.itemsize
        _, first, inverse = np.unique(
            g.row.astype(np.int64) * strides[0] + g.col.astype(np.int64) * strides[1],
            return_index=True,
            return_inverse=True,
        )
        touched = g.row[first], g.col[first]
    else:
        return np.array(float(g), params.dtype), None
    values = values.astype(real)
    sums = values[first]
    others = np.delete(np.arange(len(values)), first)
    np.add.at(sums, inverse[others], values[others])
    return sums, touched


def _store(state: State, arrays: list[Any], numbers: NDArray[Any], places: NDArray[np.int64], width: int) -> None:
    """Round new parameters, and new means in place, to what is stored; see `rmsprop_fast.stored`.

    The arrays are s, grad_avg, momentum_buffer, the parameters and their low bits.
    """
    *means, params, low = arrays

    def words(array: str) -> NDArray[np.uint32] | None:
        return stored.words(state.steps, array, places) if state.rounding == "stochastic" else None

    if state.state_dtype is not None:
        for name, mean in zip(stored.ARRAYS[1:], means, strict=True):
            if mean is not None:
                is_signed = name != "s"
                mean[...] = stored.round_means(mean, state.state_dtype, is_signed, words(name), places, width)
    low_bits = 0 if low is None else state.low_bits
    numbers = stored.round_parameters(numbers, params.dtype, low_bits, words("params"))
    if low is None:
        params[...] = numbers
    else:
        stored.split(numbers, params, low)


def _catch_up(state: State, s: NDArray[Any], last: NDArray[np.int64], touched: Any) -> None:
    """Let s of the rows that are touched, or of all, decay by the steps that they have missed, and count this one."""
    rows = slice(-1) if touched is None else touched
    factors = np.array([state.rho ** float(missed) for missed in last[-1] - last[rows]], s.dtype)
    if touched is None and len(factors) == 1:
        s[...] *= factors[0]
    else:
        s[rows if touched is not None else ...] *= factors.reshape(-1, *[1] * (s.ndim - 1))
    last[rows] = last[-1] + 1
    last[-1] += 1


def _update(
    state: State,
    multiplier: float,
    s: NDArray[Any],  # the variance if centered
    p: NDArray[Any],
    g: NDArray[Any],
    m: NDArray[Any] | None,
    b: NDArray[Any] | None,
    lr: Any,
    order: list[int],  # of the axes in memory, the outermost first
) -> NDArray[Any]:
    """Update the means in place; return the parameters in the compute type."""
    real = s.dtype.type
    lr = lr if isinstance(lr, np.ndarray) else real(lr)
    rho_t = state.rho
    if state.bias_correction:
        power = state.rho ** (float(state.steps) + 1)  # an integer would be exact beyond 2**53
        rho_t = (state.rho - power) / (1 - power)
    rho, one_minus_rho, rho_one_minus_rho = real(rho_t), real(1 - rho_t), real(rho_t * (1 - rho_t))
    momentum, weight_decay = real(state.momentum), real(state.weight_decay)

    g = real(multiplier) * g.astype(real)
    if state.clip_value is not None:
        g = np.clip(g, -real(state.clip_value), real(state.clip_value))
    if state.weight_decay and not state.decoupled:
        g = g + weight_decay * p
    if state.weight_decay and state.decoupled:
        p = p - lr * weight_decay * p

    if m is not None:
        s[...] = rho * s + rho_one_minus_rho * ((g - m) * (g - m))
        m[...] = rho * m + one_minus_rho * g
    else:
        s[...] = rho * s + one_minus_rho * (_mean_squares(g, order) if state.rowwise else g * g)

    if b is None:
        return np.asarray(p - lr / _divisor(s, state) * g)
    lr_inside, lr_outside = (lr, real(1)) if state.lr_in_momentum else (real(1), lr)
    move = lr_inside / _divisor(s, state) * g
    b[...] = momentum * b + move
    return np.asarray(p - lr_outside * (move + momentum * b if state.nesterov else b))


def _mean_squares(g: NDArray[Any], order: list[int]) -> NDArray[Any]:
    """Return the mean square of each row, along the first axis, with all other axes of length 1.

    The squares of a row are summed up in the order of memory, which that of the axes tells.
    """
    if g.ndim == 0:
        return np.asarray(g * g)
    rows = g.transpose(order).reshape(len(g), math.prod(g.shape[1:]))
    means = _sum_squares(rows.astype(np.float64)) / rows.shape[1]
    return means.astype(g.dtype).reshape(-1, *[1] * (g.ndim - 1))


def _divisor(s: NDArray[Any], state: State) -> Any:
    eps = s.dtype.type(state.eps)
    return np.sqrt(s + eps) if state.eps_inside_sqrt else np.sqrt(s) + eps


def _multipliers(grads: list[NDArray[Any]], state: State) -> tuple[list[float], list[float]]:
    """Return what the gradients of each leaf are multiplied by first, and the norms that clip; set grad_norm."""
    norms, norm = [math.nan] * len(grads), math.nan
    state._set_grad_norm(None)
    if state.clip_norm is not None or state.clip_global_norm is not None or state.skip_nonfinite:
        sums = [_sum_of_squares(g) for g in grads]
        norms = [math.sqrt(leaf_sum) / state.grad_scale for leaf_sum in sums]
        norm = math.sqrt(_in_order(sums)) / state.grad_scale
        state._set_grad_norm(norm)

    def clip(most: float | None, norm: float) -> float:
        return 1.0 if most is None or norm <= most else most / norm

    clipped = [clip(state.clip_norm, leaf_norm) * clip(state.clip_global_norm, norm) for leaf_norm in norms]
    multipliers = [(-1 if state.maximize else 1) * factor / state.grad_scale for factor in clipped]
    clipping = norms if state.clip_norm is not None else [norm] if state.clip_global_norm is not None else []
    return multipliers, clipping


def _sum_of_squares(g: NDArray[Any]) -> float:
    """Sum up blocks of 4096 elements in memory order, and then the blocks in order."""
    numbers = g.ravel(order="K").astype(np.float64)
    blocks = (numbers[begin : begin + BLOCK] for begin in range(0, numbers.size, BLOCK))
    return _in_order([float(_sum_squares(block)) for block in blocks])


def _sum_squares(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum up along the last axis in 16 lanes, which are added in halves."""
    lanes = np.zeros((*numbers.shape[:-1], LANES))
    for begin in range(0, numbers.shape[-1], LANES):
        part = numbers[..., begin : begin + LANES]
        lanes[..., : part.shape[-1]] += part * part
    while lanes.shape[-1] > 1:
        first, second = np.split(lanes, 2, axis=-1)
        lanes = first + second
    return lanes[..., 0]


def _in_order(numbers: list[float]) -> float:
    """Sum up one by one, where the built-in sum compensates for rounding from Python 3.12 on."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def _has_finite_squares(g: NDArray[Any]) -> bool:
    return bool(np.isfinite(g * g).all())


def step_size(state: State) -> Any:
    """Step size of each parameter, lr / (sqrt(s) + eps), as the next step would use it if s stayed as it is.

    Parameters
    ----------
    state : State
        As made by `rmsprop_fast.init`. Its `eps_inside_sqrt` and `centered` are obeyed, momentum is not counted in.

    Returns
    -------
    array or tree of arrays
        New arrays in the tree, shapes and dtypes of `state.s`. Where s and eps are both 0: inf, or NaN if lr is 0.

    Raises
    ------
    TypeError
        For anything but a state.
    """
    if not isinstance(state, State):
        raise TypeError(f"state: expected a rmsprop_fast.State, got {type(state).__name__}")

    def size(s: NDArray[Any], lr: Any) -> NDArray[Any]:
        return np.asarray((lr if isinstance(lr, np.ndarray) else s.dtype.type(lr)) / _divisor(s, state))

    with np.errstate(all="ignore"):
        return state._map(size)


def _leaves(*trees: Any) -> Iterator[tuple[Any, ...]]:
    """Walk trees of one shape in step, level by level; what is no container belongs to all leaves below it."""
    todo = deque([trees])
    while todo:
        nodes = todo.popleft()
        if not isinstance(nodes[0], (dict, list, tuple)):
            yield nodes
            continue
        for key in nodes[0] if isinstance(nodes[0], dict) else range(len(nodes[0])):
            todo.append(tuple(_child(node, key) for node in nodes))


def _child(node: Any, key: Any) -> Any:
    """Look into what a container truly holds, as the kernel does, whatever a subclass says of itself."""
    for container in (dict, list, tuple):
        if isinstance(node, container):
            return container.__getitem__(node, key)  # type: ignore[index]
    return node
