"""Steps with compact state and parameters: how long they take, beside float32's and beside what memory allows.

``python -m rmsprop_fast.bench.compact`` times these alone.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass, field
from timeit import Timer
from typing import TYPE_CHECKING, Any

import numpy as np

import rmsprop_fast as rf
from rmsprop_fast import _core
from rmsprop_fast.bench.limits import limit_name, limits
from rmsprop_fast.bench.machine import free_memory, thread_counts
from rmsprop_fast.bench.peers import missing
from rmsprop_fast.bench.problems import LARGE, make_problem, size_name
from rmsprop_fast.bench.steps import HYPER
from rmsprop_fast.bench.timings import Quartiles, Timings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

COMPACT_SIZES = (2**14, 2**20, 2**22, 2**25)
QUICK_COMPACT_SIZES = (2**14, 2**20)
SECONDS = 0.005  # that each candidate runs in each round, at least
MOST_BYTES = 60  # an element, of all formats together
BYTES = 20  # an element of the float32 step, and of the memory limit


@dataclass(frozen=True)
class Format:
    """In what the parameters and the state are kept; gradients are of the parameters' type."""

    name: str
    dtype: str = "float32"  # or "bfloat16"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def packages(self) -> tuple[str, ...]:
        return ("ml_dtypes",) if self.dtype == "bfloat16" else ()

    @property
    def bytes_per_element(self) -> float:
        """Of p, g, s and low bits: all are read, and all but g are written. A block's byte counts, too."""
        of_p = 4 if self.dtype == "float32" else 2
        of_s = {None: 4, "bfloat16": 2, "uint8": 1 + 1 / 128}[self.options.get("state_dtype")]
        return float(3 * of_p + 2 * of_s + 2 * self.options.get("low_bits", 0) / 8)

    def array(self, numbers: NDArray[Any]) -> NDArray[Any]:
        if self.dtype == "float32":
            return numbers
        import ml_dtypes

        return numbers.astype(ml_dtypes.bfloat16)


FLOAT32, UINT8, BITSANDBYTES = "float32", "uint8 s", "bitsandbytes RMSprop8bit"
STOCHASTIC = {"rounding": "stochastic"}

FORMATS = [
    Format(FLOAT32),
    Format("bfloat16 s", options={"state_dtype": "bfloat16"}),
    Format("bfloat16 s, stochastic", options={"state_dtype": "bfloat16", **STOCHASTIC}),
    Format(UINT8, options={"state_dtype": "uint8"}),
    Format("uint8 s, stochastic", options={"state_dtype": "uint8", **STOCHASTIC}),
    Format("bfloat16 p, g", "bfloat16"),
    Format("bfloat16 p, g, s", "bfloat16", {"state_dtype": "bfloat16"}),
    Format("bfloat16 p, g, s, stochastic", "bfloat16", {"state_dtype": "bfloat16", **STOCHASTIC}),
    Format("bfloat16 p, g, 16 low bits", "bfloat16", {"low_bits": 16}),
    Format("bfloat16 p, g, 8 low bits, uint8 s", "bfloat16", {"low_bits": 8, "state_dtype": "uint8"}),
    Format(
        "bfloat16 p, g, 8 low bits, uint8 s, stochastic",
        "bfloat16",
        {"low_bits": 8, "state_dtype": "uint8", **STOCHASTIC},
    ),
]
BY_NAME = {form.name: form for form in FORMATS}
PEER_PACKAGES = ("torch", "bitsandbytes")


@dataclass
class CompactRow:
    """One format, or the peer."""

    seconds: Quartiles
    ns_per_element: float
    bytes_per_element: float  # that a fused step has to move
    share_of_limit: float
    of_float32: Quartiles  # of the time of the float32 step, round by round
    of_uint8: Quartiles


@dataclass
class CompactCase:
    """How all formats did with one array of so many elements."""

    name: str
    elements: int
    rows: dict[str, CompactRow]


def check(form: Format) -> None:
    """Raise AssertionError unless two steps have the bytes of the reference."""
    random = np.random.default_rng(0)
    p, g = (form.array(random.standard_normal(1000, np.float32)) for _ in range(2))
    expected = p.copy()
    state, oracle = (rf.init(params, **HYPER, **form.options) for params in (p, expected))
    for _ in range(2):
        rf.step(p, g, state)
        rf.reference.step(expected, g, oracle)
    for actual, of_reference in ((p, expected), (state.s, oracle.s)):
        assert actual.tobytes() == of_reference.tobytes(), f"{form.name}: expected the bytes of the reference"


def bitsandbytes_step(p: NDArray[Any], g: NDArray[Any]) -> Callable[[], object]:
    """Return a step on the same memory, with a running mean that starts at 0."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # or it would talk about products of 4 bits
    import torch

    bitsandbytes: Any = importlib.import_module("bitsandbytes")  # which has no types
    param = torch.nn.Parameter(torch.from_numpy(p))
    param.grad = torch.from_numpy(g)
    optimizer = bitsandbytes.optim.RMSprop8bit([param], lr=HYPER["lr"], alpha=HYPER["rho"], eps=HYPER["eps"])
    step: Callable[[], object] = optimizer.step
    return step


def check_bitsandbytes(prepare: Callable[[NDArray[Any], NDArray[Any]], Callable[[], object]]) -> None:
    """Raise AssertionError unless two steps go as far as those of RMSprop; its codes are coarser than ours."""
    random = np.random.default_rng(0)
    start = random.standard_normal(2**13, np.float32)  # below 4096 elements its state is float32
    g = random.random(start.size, np.float32) + np.float32(0.1)
    p, expected = start.copy(), start.copy()
    step, state = prepare(p, g), rf.init(expected, **{**HYPER, "initial_s": 0})
    for _ in range(2):
        step()
        rf.step(expected, g, state)
    np.testing.assert_allclose(p - start, expected - start, rtol=0.1)


def measure_compact(elements: int, left_out: dict[str, str], quick: bool) -> CompactCase:
    """Time every format and the peer, after a check, and the limits. Raises MemoryError."""
    if elements * MOST_BYTES > free_memory():
        raise MemoryError(f"needs {elements * MOST_BYTES / 1e9:.1f} GB of free memory")
    is_large = elements >= LARGE
    timings = Timings()
    for _ in range(2 if is_large and not quick else 1):  # pages fall better or worse
        problem = make_problem([(elements,)])
        candidates: dict[str, Any] = {limit.name: limit for limit in limits(problem)}
        candidates |= _formats(problem.params[0], problem.grads[0], left_out)
        if elements == LARGE:  # its threads disturb all that is shorter, and it takes long
            candidates |= _peer(problem.params[0], problem.grads[0], left_out)
        timings.measure(candidates, rounds=5 if quick else 9 if is_large else 21, seconds=SECONDS)
    return _case(elements, timings)


def _formats(p: NDArray[Any], g: NDArray[Any], left_out: dict[str, str]) -> dict[str, Timer]:
    """Return a timer of each; those with parameters of the same type share them and the gradients."""
    found: dict[str, Timer] = {}
    arrays: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    for form in FORMATS:
        if absent := missing(form.packages):
            left_out[form.name] = f"not installed: {', '.join(absent)}"
            continue
        check(form)
        if form.dtype not in arrays:
            arrays[form.dtype] = form.array(p), form.array(g)
        params, grads = arrays[form.dtype]
        names = {"step": rf.step, "p": params, "g": grads, "state": rf.init(params, **HYPER, **form.options)}
        found[form.name] = Timer("step(p, g, state)", globals=names)
    return found


def _peer(p: NDArray[Any], g: NDArray[Any], left_out: dict[str, str]) -> dict[str, Timer]:
    if BITSANDBYTES in left_out:
        return {}
    if absent := missing(PEER_PACKAGES):
        left_out[BITSANDBYTES] = f"not installed: {', '.join(absent)}"
        return {}
    try:
        check_bitsandbytes(bitsandbytes_step)
        return {BITSANDBYTES: Timer("step()", globals={"step": bitsandbytes_step(p, g)})}
    except Exception as error:
        left_out[BITSANDBYTES] = f"failed: {type(error).__name__}: {error}"
        return {}


def _case(elements: int, timings: Timings) -> CompactCase:
    rows = {}
    for name in (*BY_NAME, BITSANDBYTES):
        if name not in timings.rounds:
            continue
        bytes_per_element = BY_NAME[UINT8 if name == BITSANDBYTES else name].bytes_per_element
        # The memory limit is that of float32's streams, scaled by the bytes.
        limit = min(
            max(timings.median(limit_name(True, t)) * bytes_per_element / BYTES, timings.median(limit_name(False, t)))
            for t in thread_counts()
            if t == 1 or t * _core._share() <= elements  # that a step uses, too
        )
        median = timings.median(name)
        rows[name] = CompactRow(
            seconds=timings.quartiles(name),
            ns_per_element=median / elements * 1e9,
            bytes_per_element=bytes_per_element,
            share_of_limit=limit / median,
            of_float32=timings.ratio(name, FLOAT32),
            of_uint8=timings.ratio(name, UINT8),
        )
    return CompactCase(size_name(elements), elements, rows)


def main() -> None:
    """Measure all, and print the tables in Markdown."""
    from rmsprop_fast.bench import report
    from rmsprop_fast.bench.suite import Result

    left_out: dict[str, str] = {}
    result = Result({}, left_out, compact=[measure_compact(size, left_out, quick=False) for size in COMPACT_SIZES])
    print(report.markdown(result))
    for name, why in left_out.items():
        print(f"{name}: {why}")


if __name__ == "__main__":
    main()
