"""What else one could use for a step of RMSprop."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rmsprop_fast.bench.steps import (
    jax,
    keras,
    numba_parallel,
    numba_serial,
    numexpr,
    numpy_out,
    numpy_temporaries,
    rmsprop_fast,
)
from rmsprop_fast.bench.torch_steps import rmsprop_fast_torch, torch_adagrad, torch_compiled, torch_foreach, torch_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rmsprop_fast.bench.steps import Problem, Step


def missing(packages: Sequence[str]) -> list[str]:
    """Return those of these packages that are not installed."""
    return [package for package in packages if find_spec(package) is None]


@dataclass(frozen=True)
class Peer:
    """A candidate, and the packages that it needs."""

    name: str
    prepare: Callable[[Problem], Step]
    packages: tuple[str, ...] = ()
    has_options: bool = False  # of the fused extras
    compiles_long: bool = False


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
