"""What else one could use for a step of RMSprop, each as its users write it.

This file runs on its own, too, as ``python peers.py NAME ELEMENTS``: it then prints how long that peer's import and
first step took, and how much memory a later step needed. So it imports nothing that a peer would have to import.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
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


def _tensors(problem: Problem) -> list[Any]:
    import torch

    if not problem.tensors:
        problem.tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in problem.params]
        for param, grad in zip(problem.tensors, problem.grads, strict=True):
            param.grad = torch.from_numpy(grad)
    return problem.tensors


def _torch(problem: Problem, optimizer: Any, step: Callable[[], object]) -> Step:
    """Return a step by a torch optimizer, the running mean of which is moved to the arrays of the problem."""
    import torch

    (group,) = optimizer.param_groups
    before = [param.detach().clone() for param in group["params"]]
    optimizer.step()  # makes its state
    with torch.no_grad():
        for param, kept in zip(group["params"], before, strict=True):
            param.copy_(kept)
    for param, s in zip(group["params"], problem.s, strict=True):
        for name, value in optimizer.state[param].items():
            is_s = name in ("square_avg", "variance", "sum")
            value.fill_(INITIAL_S if is_s else 0)
            if is_s and not problem.options:
                optimizer.state[param][name] = torch.from_numpy(s)
    return Step("step()", {"step": step}, lambda: [param.detach().numpy() for param in group["params"]])


def _torch_rmsprop(problem: Problem, foreach: bool, compiled: bool = False) -> Step:
    import torch

    options = dict(problem.options)
    clip, skips = options.pop("clip_global_norm", None), options.pop("skip_nonfinite", False)
    params = _tensors(problem)
    optimizer = torch.optim.RMSprop(
        params, lr=HYPER["lr"], alpha=HYPER["rho"], eps=HYPER["eps"], foreach=foreach, **options
    )

    def clipped_step() -> None:
        norm = torch.nn.utils.clip_grad_norm_(params, clip)
        if not skips or norm.isfinite():
            optimizer.step()

    if compiled:
        torch._logging.set_logs(all=logging.ERROR)  # type: ignore[attr-defined]  # or it would talk about itself
        torch.compiler.reset()  # or it would give up after some problems
        return _torch(problem, optimizer, torch.compile(lambda: optimizer.step()))
    return _torch(problem, optimizer, clipped_step if clip else optimizer.step)


def torch_loop(problem: Problem) -> Step:
    return _torch_rmsprop(problem, foreach=False)


def torch_foreach(problem: Problem) -> Step:
    return _torch_rmsprop(problem, foreach=True)


def torch_compiled(problem: Problem) -> Step:
    return _torch_rmsprop(problem, foreach=True, compiled=True)


def torch_adagrad(problem: Problem) -> Step:
    import torch

    optimizer = torch.optim.Adagrad(_tensors(problem), lr=HYPER["lr"], eps=HYPER["eps"], fused=True)
    return _torch(problem, optimizer, optimizer.step)


def rmsprop_fast_torch(problem: Problem) -> Step:
    from rmsprop_fast.torch import RMSprop

    options = dict(problem.options)
    if "clip_global_norm" in options:
        options["max_grad_norm"] = options.pop("clip_global_norm")
    optimizer = RMSprop(_tensors(problem), lr=HYPER["lr"], alpha=HYPER["rho"], eps=HYPER["eps"], **options)
    return _torch(problem, optimizer, optimizer.step)


@dataclass(frozen=True)
class Peer:
    """A candidate, and the packages that it needs."""

    name: str
    prepare: Callable[[Problem], Step]
    packages: tuple[str, ...] = ()
    has_options: bool = False  # of the fused extras
    compiles_long: bool = False

    def missing(self) -> list[str]:
        return [package for package in self.packages if find_spec(package) is None]


OURS, OURS_TORCH = "rmsprop_fast", "rmsprop_fast.torch"
TEMPORARIES, OUT = "NumPy, temporaries", "NumPy, out="
NUMBA_SERIAL, NUMBA_PARALLEL = "numba, serial", "numba, parallel"
JAX = "jax.jit(optax.rmsprop), donated"
LOOP, FOREACH, COMPILED = "torch RMSprop, for loop", "torch RMSprop, foreach", "torch.compile(RMSprop)"
ADAGRAD = "torch Adagrad, fused"

PEERS = [
    Peer(OURS, rmsprop_fast, has_options=True),
    Peer(OURS_TORCH, rmsprop_fast_torch, ("torch",), has_options=True),
    Peer(OUT, numpy_out),
    Peer("numexpr", numexpr, ("numexpr",)),
    Peer(NUMBA_SERIAL, numba_serial, ("numba",)),
    Peer(NUMBA_PARALLEL, numba_parallel, ("numba",)),
    Peer(JAX, jax, ("jax", "optax"), has_options=True),
    Peer(LOOP, torch_loop, ("torch",), has_options=True),
    Peer(FOREACH, torch_foreach, ("torch",), has_options=True),
    Peer(COMPILED, torch_compiled, ("torch",), compiles_long=True),
    Peer(ADAGRAD, torch_adagrad, ("torch",)),
    Peer("Keras", keras, ("keras",)),
    Peer(TEMPORARIES, numpy_temporaries),
]


def _memory(key: str) -> int:
    """Return a line of this process's status, in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))


def main(name: str, elements: int) -> None:
    """Print the seconds from import to the end of the first step, of 64 elements, and the memory that a step needs."""
    import json
    import time

    del sys.path[0]  # this folder, the names of which are no top-level modules
    (peer,) = (peer for peer in PEERS if peer.name == name)

    def prepare(elements: int) -> tuple[Any, dict[str, Any]]:
        p, g, s = ([np.full(elements, number, np.float32)] for number in (1, 0.5, INITIAL_S))
        step = peer.prepare(Problem(p, g, s))
        return compile(step.statement, name, "exec"), step.names

    start = time.perf_counter()
    exec(*prepare(64))
    result: dict[str, Any] = {"seconds": time.perf_counter() - start}
    if elements:
        code, names = prepare(elements)
        for _ in range(2):
            exec(code, names)
        with contextlib.suppress(OSError, StopIteration):  # where there is no such thing
            with open("/proc/self/clear_refs", "w") as references:
                references.write("5")  # the peak begins anew
            before = _memory("VmRSS:")
            exec(code, names)
            peak = _memory("VmHWM:")
            result |= {"peak": peak, "extra": max(0, peak - before) / elements}
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
