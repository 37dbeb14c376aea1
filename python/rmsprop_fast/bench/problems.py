"""The arrays that candidates work on, and the proof that what they do there is RMSprop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import rmsprop_fast as rf
from rmsprop_fast.bench import peers
from rmsprop_fast.bench.peers import ADAGRAD, HYPER, INITIAL_S, Peer, Problem, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rmsprop_fast.bench.models import Shape


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
    start = [p.reshape(-1)[: peers.SHOWN].copy() for p in problem.params]
    grads = [g.reshape(-1)[: peers.SHOWN] for g in problem.grads]
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
