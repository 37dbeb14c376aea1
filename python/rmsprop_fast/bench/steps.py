"""A step of RMSprop by all that one could use, each as its users write it; ``torch_steps`` has PyTorch's.

Importing this imports nothing that a step needs, but NumPy: see ``fresh`` and ``loops``.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from timeit import Timer
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

# Compiled into loops as constants, which favours them.
LR, RHO, ONE_MINUS_RHO, EPS = (np.float32(number) for number in (0.01, 0.999, 1 - 0.999, 1e-8))
INITIAL_S = 0.1  # no subnormal numbers
HYPER: dict[str, Any] = {"lr": 0.01, "rho": 0.999, "eps": 1e-8, "initial_s": INITIAL_S}

SHOWN = 1000  # elements of each array that are compared with the reference


@dataclass
class Problem:
    """The arrays of one step: all peers that can share one set of them, so that none has a better place in memory."""

    params: list[Array]
    grads: list[Array]
    s: list[Array]
    state: Any = None  # of rmsprop_fast, which `s` belongs to
    options: dict[str, Any] = field(default_factory=dict)  # of rmsprop_fast.init, beyond the bare step
    tensors: list[Any] = field(default_factory=list)  # the params, on the same memory, once a peer has asked for them


@dataclass
class Step:
    """One step, as a statement and the names in it, and what it works on."""

    statement: str
    names: dict[str, Any]
    params: Callable[[], Sequence[Any]]  # as they are now; converted by NumPy

    def timer(self) -> Timer:
        return Timer(self.statement, globals=self.names)

    def function(self) -> Callable[[], object]:
        function: Callable[[], object] = eval(f"lambda: {self.statement}", self.names)
        return function

    def shown(self) -> list[Array]:
        return [np.array(param.reshape(-1)[:SHOWN], copy=True) for param in self.params()]


def rmsprop_fast(problem: Problem) -> Step:
    import rmsprop_fast as rf

    one = len(problem.params) == 1
    p = problem.params[0] if one else problem.params
    g = problem.grads[0] if one else problem.grads
    state = problem.state or rf.init(p, **HYPER, **problem.options)
    return Step("step(p, g, state)", {"step": rf.step, "p": p, "g": g, "state": state}, lambda: problem.params)


def numpy_temporaries(problem: Problem) -> Step:
    def step() -> None:
        for p, g, s in zip(problem.params, problem.grads, problem.s, strict=True):
            s[...] = RHO * s + ONE_MINUS_RHO * g**2
            p -= LR / (np.sqrt(s) + EPS) * g

    return _in_place(problem, step)


def numpy_out(problem: Problem) -> Step:
    scratches = [np.empty_like(p) for p in problem.params]

    def step() -> None:
        for p, g, s, scratch in zip(problem.params, problem.grads, problem.s, scratches, strict=True):
            np.multiply(g, g, out=scratch)
            np.multiply(scratch, ONE_MINUS_RHO, out=scratch)
            np.multiply(s, RHO, out=s)
            np.add(s, scratch, out=s)
            np.sqrt(s, out=scratch)
            np.add(scratch, EPS, out=scratch)
            np.divide(LR, scratch, out=scratch)
            np.multiply(scratch, g, out=scratch)
            np.subtract(p, scratch, out=p)

    return _in_place(problem, step)


def numexpr(problem: Problem) -> Step:
    import numexpr

    names = {"lr": LR, "rho": RHO, "one_minus_rho": ONE_MINUS_RHO, "eps": EPS}

    def step() -> None:
        for p, g, s in zip(problem.params, problem.grads, problem.s, strict=True):
            numexpr.evaluate("rho * s + one_minus_rho * (g * g)", {**names, "s": s, "g": g}, out=s)
            numexpr.evaluate("p - lr / (sqrt(s) + eps) * g", {**names, "p": p, "s": s, "g": g}, out=p)

    return _in_place(problem, step)


@functools.cache
def _numba_loop(parallel: bool) -> Any:
    import numba

    prange = numba.prange

    @numba.njit(error_model="numpy", parallel=parallel)
    def step(p: Any, g: Any, s: Any) -> None:
        for i in prange(p.size):
            s[i] = RHO * s[i] + ONE_MINUS_RHO * (g[i] * g[i])
            p[i] = p[i] - LR / (np.sqrt(s[i]) + EPS) * g[i]

    return step


def _numba(problem: Problem, parallel: bool) -> Step:
    step = _numba_loop(parallel)
    rows = [[array.reshape(-1) for array in arrays] for arrays in (problem.params, problem.grads, problem.s)]
    leaves = list(zip(*rows, strict=True))
    if len(leaves) == 1:
        names = dict(zip("pgs", leaves[0], strict=True))
        return Step("step(p, g, s)", {"step": step, **names}, lambda: problem.params)

    def steps() -> None:
        for p, g, s in leaves:
            step(p, g, s)

    return _in_place(problem, steps)


def numba_serial(problem: Problem) -> Step:
    return _numba(problem, parallel=False)


def numba_parallel(problem: Problem) -> Step:
    return _numba(problem, parallel=True)


def _in_place(problem: Problem, step: Callable[[], object]) -> Step:
    """Return a step by a function that works on the arrays of the problem."""
    return Step("step()", {"step": step}, lambda: problem.params)


def jax(problem: Problem) -> Step:
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import optax

    options = dict(problem.options)
    clip, decay = options.pop("clip_global_norm", None), options.pop("weight_decay", None)
    skips = options.pop("skip_nonfinite", False)
    rmsprop = optax.rmsprop(
        HYPER["lr"], HYPER["rho"], HYPER["eps"], initial_scale=INITIAL_S, eps_in_sqrt=False, **options
    )
    parts = [optax.clip_by_global_norm(clip)] if clip else []
    parts += [optax.add_decayed_weights(decay)] if decay else []
    optimizer = optax.chain(*parts, rmsprop)
    if skips:
        optimizer = optax.apply_if_finite(optimizer, max_consecutive_errors=10)

    params = [jax.numpy.array(p) for p in problem.params]
    grads = [jax.numpy.array(g) for g in problem.grads]
    optimizer_state: Any = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 2))
    def update(params: Any, grads: Any, optimizer_state: Any) -> Any:
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state

    def step() -> None:
        nonlocal params, optimizer_state
        params, optimizer_state = update(params, grads, optimizer_state)
        jax.block_until_ready(params)  # type: ignore[no-untyped-call]

    return Step("step()", {"step": step}, lambda: params)


def keras(problem: Problem) -> Step:
    for backend in ("jax", "torch"):
        if find_spec(backend):
            os.environ["KERAS_BACKEND"] = backend
    os.environ["KERAS_TORCH_DEVICE"] = "cpu"
    import keras

    variables = [keras.Variable(p) for p in problem.params]
    grads = [keras.ops.convert_to_tensor(g) for g in problem.grads]
    optimizer = keras.optimizers.RMSprop(HYPER["lr"], rho=HYPER["rho"], epsilon=HYPER["eps"])
    optimizer.build(variables)

    for velocity in optimizer._velocities:
        velocity.assign(keras.ops.full_like(velocity, INITIAL_S))

    def params() -> list[Any]:
        return [keras.ops.convert_to_numpy(variable.value) for variable in variables]

    return Step("step(grads)", {"step": optimizer.apply, "grads": grads}, params)
