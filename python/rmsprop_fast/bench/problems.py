"""The arrays that candidates work on, and the proof that what they do there is RMSprop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import rmsprop_fast as rf
from rmsprop_fast.bench.peers import ADAGRAD, OURS, Peer
from rmsprop_fast.bench.steps import HYPER, INITIAL_S, SHOWN, Problem, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from timeit import Timer

    from rmsprop_fast.bench.models import Shape

LARGE = 2**22  # elements from which the arrays are in no cache, as a rule


def size_name(elements: int) -> str:
    """Return 16384 as 16 Ki."""
    for unit, name in ((2**20, " Mi"), (2**10, " Ki")):
        if elements % unit == 0:
            return f"{elements // unit}{name}"
    return str(elements)


def make_problem(shapes: Sequence[Shape], options: Mapping[str, Any] | None = None) -> Problem:
    # glibc takes arrays from the system each time until a large one was freed; then it keeps memory for the next ones,
    # as in most programs. This makes NumPy's temporaries of 1 MB six times faster.
    np.empty(2**21)
    generator = np.random.default_rng(0)
    params = [generator.standard_normal(shape, np.float32) for shape in shapes]
    grads = [generator.random(shape, np.float32) + np.float32(0.1) for shape in shapes]  # no subnormal squares
    state = rf.init(params[0] if len(shapes) == 1 else params, **HYPER, **(options or {}))
    s = [np.full_like(p, INITIAL_S) for p in params] if options else [state.s] if len(shapes) == 1 else state.s
    return Problem(params, grads, s, state, dict(options or {}))


def checked(peer: Peer, problem: Problem) -> Step:
    """Return the peer's step, after two were compared with the reference. Raises AssertionError if they differ."""
    for s in problem.s:
        s[...] = INITIAL_S
    start = [p.reshape(-1)[:SHOWN].copy() for p in problem.params]
    grads = [g.reshape(-1)[:SHOWN] for g in problem.grads]
    step = peer.prepare(problem)
    step.timer().timeit(2)
    if peer.name == ADAGRAD:
        squares = [np.full_like(g, INITIAL_S) for g in grads]
        for _ in range(2):
            for p, g, square in zip(start, grads, squares, strict=True):
                square += g * g
                p -= np.float32(HYPER["lr"]) * g / (np.sqrt(square) + np.float32(HYPER["eps"]))
    else:
        state = rf.init(start, **HYPER, **problem.options)
        for _ in range(2):
            rf.reference.step(start, grads, state)
    for actual, expected in zip(step.shown(), start, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)
    return step


def timers(some: Sequence[Peer], problem: Problem, where: str, left_out: dict[str, str]) -> dict[str, Timer]:
    """Return a timer of each of these peers that works here. One that once did not is left out from there on."""
    found = {}
    for peer in some:
        if peer.name in left_out:
            continue
        try:
            found[peer.name] = checked(peer, problem).timer()
        except Exception as error:
            if peer.name == OURS:
                raise
            left_out[peer.name] = f"failed at {where}: {type(error).__name__}: {error}"
    return found
