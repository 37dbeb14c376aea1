"""What a user would write instead, and the arrays that all of them work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    random = np.random.default_rng(0)
    p = random.standard_normal(size, np.float32)
    g = random.uniform(1e-4, 1e-3, size).astype(np.float32)
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


def calls(arrays: Arrays) -> dict[str, Callable[[], None]]:
    """Return one step by each peer on these arrays, checked to be a step of RMSprop."""
    p, g, state, s, scratch = arrays.p, arrays.g, arrays.state, arrays.s, arrays.scratch
    steps: dict[str, Callable[[], None]] = {
        OURS: lambda step=rf.step: step(p, g, state),  # type: ignore[misc]
        "numba, serial": lambda step=numba_serial: step(p, g, s),
        "numba, parallel": lambda step=numba_parallel: step(p, g, s),
        "NumPy, out=": lambda step=numpy_out: step(p, g, s, scratch),  # type: ignore[misc]
        "NumPy, temporaries": lambda step=numpy_temporaries: step(p, g, s),  # type: ignore[misc]
    }
    for name, step in steps.items():
        check(name, step, arrays)
    streams(p, g, s)  # compile
    return {**steps, STREAMS: lambda step=streams: step(p, g, s)}


def check(name: str, step: Callable[[], None], arrays: Arrays) -> None:
    part = slice(0, 1000)
    expected_p = arrays.p[part].copy()
    state = rf.init(expected_p, lr=float(LR), rho=0.999, eps=1e-8)
    state.s[...] = arrays.s[part]
    rf.reference.step(expected_p, arrays.g[part], state)
    step()
    np.testing.assert_allclose(arrays.p[part], expected_p, rtol=1e-6, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(arrays.s[part], state.s, rtol=1e-6, err_msg=name)
