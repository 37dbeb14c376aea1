"""What a user would write instead, and the arrays that all of them work on."""

from __future__ import annotations

from dataclasses import dataclass
from timeit import Timer
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

import rmsprop_fast as rf

Array = NDArray[np.float32]

# Compiled into the numba loops as constants, which favours them.
LR, RHO, ONE_MINUS_RHO, EPS = (np.float32(number) for number in (0.01, 0.999, 1 - 0.999, 1e-8))

SIZES = {"64": 64, "16 Ki": 2**14, "256 Ki": 2**18, "32 Mi": 2**25}


@dataclass
class Arrays:
    """One set of arrays for all peers, so that none has a better place in memory."""

    p: Array
    g: Array
    state: rf.State
    s: Array
    scratch: Array


def make_arrays(size: int) -> Arrays:
    # glibc takes arrays from the system each time until a large one was freed; then it keeps memory for the next ones,
    # as in most programs. This makes NumPy's temporaries of 1 MB six times faster.
    np.empty(2**21)
    random = np.random.default_rng(0)
    p = random.standard_normal(size, np.float32)
    g = random.random(size, np.float32)
    g += np.float32(0.1)  # positive, or moving the streams would make s negative; not small, or squares were subnormal
    state = rf.init(p, lr=float(LR), rho=0.999, eps=1e-8)
    state.s[...] = 0.1  # no subnormals
    return Arrays(p, g, state, state.s, np.empty_like(p))


def numpy_temporaries(p: Array, g: Array, s: Array) -> None:
    s[...] = RHO * s + ONE_MINUS_RHO * g**2
    p[...] = p - LR / (np.sqrt(s) + EPS) * g


def numpy_out(p: Array, g: Array, s: Array, scratch: Array) -> None:
    np.multiply(g, g, out=scratch)
    np.multiply(scratch, ONE_MINUS_RHO, out=scratch)
    np.multiply(s, RHO, out=s)
    np.add(s, scratch, out=s)
    np.sqrt(s, out=scratch)
    np.add(scratch, EPS, out=scratch)
    np.divide(LR, scratch, out=scratch)
    np.multiply(scratch, g, out=scratch)
    np.subtract(p, scratch, out=p)


def rmsprop_loop(p: Any, g: Any, s: Any) -> None:
    for i in numba.prange(p.size):
        s[i] = RHO * s[i] + ONE_MINUS_RHO * (g[i] * g[i])
        p[i] = p[i] - LR / (np.sqrt(s[i]) + EPS) * g[i]


def streams_loop(p: Any, g: Any, s: Any) -> None:
    """Move what a step moves (read p, g, s; write p, s), with hardly any arithmetic: the limit of the memory."""
    for i in numba.prange(p.size):
        s[i] = s[i] + g[i]
        p[i] = p[i] - g[i]


numba_serial = numba.njit(error_model="numpy")(rmsprop_loop)
numba_parallel = numba.njit(error_model="numpy", parallel=True)(rmsprop_loop)
streams = numba.njit(error_model="numpy", parallel=True)(streams_loop)

OURS = "rmsprop_fast"
STREAMS = "only moving the streams"


# What a user writes for one step, with the names that `names` gives.
STATEMENTS = {
    OURS: "step(p, g, state)",
    "numba, serial": "numba_serial(p, g, s)",
    "numba, parallel": "numba_parallel(p, g, s)",
    "NumPy, out=": "numpy_out(p, g, s, scratch)",
    "NumPy, temporaries": "numpy_temporaries(p, g, s)",
    STREAMS: "streams(p, g, s)",
}


def names(arrays: Arrays) -> dict[str, Any]:
    return {**globals(), **vars(arrays), "step": rf.step}


def timers(arrays: Arrays) -> dict[str, Timer]:
    """Return one step by each peer on these arrays, checked to be a step of RMSprop."""
    found = {name: Timer(statement, globals=names(arrays)) for name, statement in STATEMENTS.items()}
    for name, timer in found.items():
        if name == STREAMS:
            timer.timeit(1)  # compile
        else:
            check(name, timer, arrays)
    return found


def check(name: str, timer: Timer, arrays: Arrays) -> None:
    part = slice(0, 1000)
    expected_p = arrays.p[part].copy()
    state = rf.init(expected_p, lr=float(LR), rho=0.999, eps=1e-8)
    state.s[...] = arrays.s[part]
    rf.reference.step(expected_p, arrays.g[part], state)
    timer.timeit(1)
    np.testing.assert_allclose(arrays.p[part], expected_p, rtol=1e-6, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(arrays.s[part], state.s, rtol=1e-6, err_msg=name)
