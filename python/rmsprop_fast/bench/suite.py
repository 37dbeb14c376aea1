"""What is measured, in which order: see docs/performance.md."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import rmsprop_fast as rf
from rmsprop_fast import _core
from rmsprop_fast.bench import peers
from rmsprop_fast.bench.models import MODELS
from rmsprop_fast.bench.peers import (
    ADAGRAD,
    HYPER,
    INITIAL_S,
    NUMBA_PARALLEL,
    OURS,
    OURS_TORCH,
    PEERS,
    Peer,
    Problem,
    Step,
)
from rmsprop_fast.bench.timings import Quartiles, Timings, quartiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from timeit import Timer

    from rmsprop_fast.bench.models import Shape

BYTES = 20  # an element of the bare step: p, g and s are read, p and s are written

SIZES = [2**power for power in (6, 8, 10, 12, 14, 16, 18, 19, 20, 22, 24, 25, 27)]
QUICK_SIZES = [2**power for power in (6, 10, 14, 18, 22)]

# What the family adds to the step, and the bytes that an element then needs. The norm is never exceeded, so that the
# gradients stay as they are for everybody.
EXTRAS: dict[str, tuple[dict[str, Any], int]] = {
    "momentum": ({"momentum": 0.9}, 28),
    "centered + momentum": ({"centered": True, "momentum": 0.9}, 36),
    "clip + decay": ({"clip_global_norm": 1e9, "weight_decay": 1e-4}, 24),
    "clip + decay + skip": ({"clip_global_norm": 1e9, "weight_decay": 1e-4, "skip_nonfinite": True}, 24),
}

LARGE = 2**22  # elements from which the arrays are in no cache, as a rule
SECONDS = 0.005  # that each candidate runs in each round, at least
MOST_BYTES = 120  # an element, of all peers together


SCALES = (OURS, NUMBA_PARALLEL, ADAGRAD)  # what can be told how many threads to use


@dataclass
class Row:
    """One candidate in one case."""

    seconds: Quartiles
    ns_per_element: float
    gb_per_s: float  # of the bytes that a fused step has to move, whatever this candidate moves
    share_of_limit: float
    of_best_peer: Quartiles  # of the time of the fastest peer, round by round
    of_ours: Quartiles


@dataclass
class Case:
    """What is stepped, the limits on this machine by number of threads, and how all candidates did."""

    kind: str  # "array", "model" or "extras"
    name: str
    elements: int
    leaves: int
    bytes_per_element: int
    memory_limit: dict[int, float]  # seconds to move the streams
    compute_limit: dict[int, float]  # seconds for the divisions and roots
    limit: float  # the slower of the two, with the number of threads that is best for it
    best_peer: str
    rows: dict[str, Row]


@dataclass
class Result:
    """All that was measured; what of it there is depends on the machine and on `quick`."""

    machine: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)  # peers and cases, and why
    cases: list[Case] = field(default_factory=list)
    fresh: dict[str, dict[str, float]] = field(default_factory=dict)  # peer -> seconds of a cold start, bytes of memory
    scaling: list[dict[str, Any]] = field(default_factory=list)  # elements, threads, and the seconds of each candidate
    default_threads: list[dict[str, Any]] = field(default_factory=list)  # elements, between, and ratio to the best
    tree_ns_per_leaf: Quartiles | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def size_name(elements: int) -> str:
    """Return 16384 as 16 Ki."""
    for unit, name in ((2**20, " Mi"), (2**10, " Ki")):
        if elements % unit == 0:
            return f"{elements // unit}{name}"
    return str(elements)


def _work() -> None:
    end = time.perf_counter() + 0.005
    matrix = np.ones((64, 64), np.float32)
    while time.perf_counter() < end:
        np.matmul(matrix, matrix)


BETWEEN: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "5 ms of work": _work,
    "5 ms of sleep": lambda: time.sleep(0.005),
}


class Suite:
    """The whole run. `quick` measures fewer cases in fewer rounds."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.result = Result(machine())
        self.peers = []
        for peer in PEERS:
            if missing := peer.missing():
                self.result.left_out[peer.name] = f"not installed: {', '.join(missing)}"
            elif quick and peer.compiles_long:
                self.result.left_out[peer.name] = "compiles for long: not in --quick"
            else:
                self.peers.append(peer)

    def tasks(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield all that is to be done, with a name: run each in turn, and find the outcome in `result`."""
        models = list(MODELS)[: 2 if self.quick else None]
        for size in QUICK_SIZES if self.quick else SIZES:
            name = size_name(size)
            yield f"{name} elements", functools.partial(self.measure, "array", name, [(size,)])
        yield "tree of 158 arrays", self.measure_tree
        for model in models:
            yield model, functools.partial(self.measure, "model", model, MODELS[model])
        for exponent in (14,) if self.quick else (14, 20, 25):
            for extra, (options, bytes_per_element) in EXTRAS.items():
                name = f"{extra}, {size_name(2**exponent)}"
                shapes: list[Shape] = [(2**exponent,)]
                yield name, functools.partial(self.measure, "extras", name, shapes, options, bytes_per_element)
        for exponent in (14, 18) if self.quick else (14, 16, 18, 20, 22, 25):
            yield f"scaling, {size_name(2**exponent)}", functools.partial(self.measure_scaling, 2**exponent)
        for exponent in (10, 16) if self.quick else (6, 10, 12, 13, 14, 15, 16, 17, 18, 20, 22):
            for between in BETWEEN:
                name = f"default threads, {size_name(2**exponent)}, {between} between steps"
                yield name, functools.partial(self.measure_default_threads, 2**exponent, between)
        for peer in self.peers:
            yield f"fresh process, {peer.name}", functools.partial(self.measure_fresh, peer)

    def run(self, name: str, task: Callable[[], None]) -> None:
        """Run a task; one that fails is named, and the others go on."""
        try:
            task()
        except Exception as error:
            self.result.left_out[name] = f"failed: {type(error).__name__}: {error}"

    def measure(
        self,
        kind: str,
        name: str,
        shapes: Sequence[Shape],
        options: Mapping[str, Any] | None = None,
        bytes_per_element: int = BYTES,
    ) -> None:
        """Add a case: every peer that can do it, checked and then timed, and the limits."""
        elements = sum(math.prod(shape) for shape in shapes)
        if elements * MOST_BYTES > free_memory():
            self.result.left_out[name] = f"needs {elements * MOST_BYTES / 1e9:.1f} GB of free memory"
            return
        timings = Timings()
        for _ in range(2 if elements >= LARGE and not self.quick else 1):  # pages fall better or worse
            self._measure_place(name, shapes, options, timings)
        self.result.cases.append(self._case(kind, name, elements, len(shapes), bytes_per_element, timings))

    def _measure_place(
        self, name: str, shapes: Sequence[Shape], options: Mapping[str, Any] | None, timings: Timings
    ) -> None:
        problem = make_problem(shapes, options)
        is_large = sum(p.size for p in problem.params) >= LARGE
        rounds = 5 if self.quick or is_large else 21
        some = [peer for peer in self.peers if not options or peer.has_options]
        candidates: dict[str, Any] = {limit.name: limit for limit in limits(problem)}
        candidates |= self._checked(some, problem, name)
        # Its temporaries come from the system and go back to it, which slows down what comes next.
        apart = {peer: candidates.pop(peer) for peer in (peers.TEMPORARIES,) if is_large and peer in candidates}
        timings.measure(candidates, rounds=rounds, seconds=SECONDS)
        timings.measure(apart, rounds=rounds, seconds=SECONDS)

    def _checked(self, some: Sequence[Peer], problem: Problem, where: str) -> dict[str, Timer]:
        """Return a timer of each of these peers that works here. One that once did not is left out from there on."""
        timers = {}
        for peer in some:
            if peer.name in self.result.left_out:
                continue
            try:
                timers[peer.name] = checked(peer, problem).timer()
            except Exception as error:
                if peer.name == OURS:
                    raise
                self.result.left_out[peer.name] = f"failed at {where}: {type(error).__name__}: {error}"
        return timers

    def _case(self, kind: str, name: str, elements: int, leaves: int, bytes_per_element: int, timings: Timings) -> Case:
        memory = {t: timings.median(limit_name(True, t)) * bytes_per_element / BYTES for t in thread_counts()}
        compute = {t: timings.median(limit_name(False, t)) for t in thread_counts()}
        limit = min(max(memory[t], compute[t]) for t in thread_counts())
        rounds = len(timings.rounds[OURS])
        complete = [peer.name for peer in self.peers if len(timings.rounds.get(peer.name, ())) == rounds]
        others = [peer for peer in complete if peer not in (OURS, OURS_TORCH)]
        best = min(others or [OURS], key=timings.median)
        rows = {}
        for peer in complete:
            median = timings.median(peer)
            rows[peer] = Row(
                seconds=timings.quartiles(peer),
                ns_per_element=median / elements * 1e9,
                gb_per_s=elements * bytes_per_element / median / 1e9,
                share_of_limit=limit / median,
                of_best_peer=timings.ratio(peer, best),
                of_ours=timings.ratio(peer, OURS),
            )
        return Case(kind, name, elements, leaves, bytes_per_element, memory, compute, limit, best, rows)

    def measure_tree(self) -> None:
        """Measure what 158 arrays cost above the same elements in one array, in one thread."""
        leaves, size = 158, 64
        tree, array = make_problem([(size,)] * leaves), make_problem([(leaves * size,)])
        timings = Timings()
        with threads(1):
            candidates = {
                name: checked(PEERS[0], problem).timer() for name, problem in (("tree", tree), ("array", array))
            }
            timings.measure(candidates, rounds=5 if self.quick else 41, seconds=SECONDS)
        above = zip(timings.rounds["tree"], timings.rounds["array"], strict=True)
        self.result.tree_ns_per_leaf = quartiles([(a - b) / leaves * 1e9 for a, b in above])

    def measure_scaling(self, elements: int) -> None:
        """Measure a step with each number of threads, of what can be told how many to use."""
        for count in thread_counts():
            problem = make_problem([(elements,)])
            timings = Timings()
            with all_threads(count):
                some = [peer for peer in self.peers if peer.name in SCALES]
                candidates = self._checked(some, problem, f"threads={count}")
                timings.measure(candidates, rounds=5 if self.quick else 15, seconds=SECONDS)
            seconds = {name: timings.median(name) for name in timings.rounds}
            self.result.scaling.append({"name": size_name(elements), "threads": count, "seconds": seconds})

    def measure_default_threads(self, elements: int, between: str) -> None:
        """Measure the default number of threads against every fixed one, with that between the steps."""
        problem = make_problem([(elements,)])
        p, g, state = problem.params[0], problem.grads[0], problem.state
        pause = BETWEEN[between]
        repeats = max(1, min(200, 2**20 // elements)) if between == "nothing" else 1
        rounds: dict[int | None, list[float]] = {count: [] for count in (None, *thread_counts())}
        for _ in range(9 if self.quick else 121):
            for count in random.sample(list(rounds), len(rounds)):
                with threads(count):
                    rf.step(p, g, state)
                    pause()
                    start = time.perf_counter()
                    for _ in range(repeats):
                        rf.step(p, g, state)
                    rounds[count].append((time.perf_counter() - start) / repeats)
        medians = {count: statistics.median(seconds) for count, seconds in rounds.items()}
        default = medians.pop(None)
        best = min(medians, key=lambda count: medians[count] or math.inf)
        self.result.default_threads.append(
            {
                "name": size_name(elements),
                "between": between,
                "default": default,
                "seconds": medians,
                "best": best,
                "of_best": default / medians[best],
            }
        )

    def measure_fresh(self, peer: Peer) -> None:
        """Measure import and first step, and what memory a step needs, in new processes."""
        has_memory = os.access("/proc/self/clear_refs", os.W_OK)
        repeats = 1 if self.quick or peer.compiles_long else 9 if peer.name == OURS else 3
        runs = []
        for repeat in range(repeats):
            elements = LARGE if has_memory and repeat == 0 else 0
            command = [sys.executable, peers.__file__, peer.name, str(elements)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                self.result.left_out[f"fresh process, {peer.name}"] = (
                    done.stderr.splitlines() or [f"exit code {done.returncode}"]
                )[-1]
                return
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        self.result.fresh[peer.name] = {**runs[0], "seconds": statistics.median(run["seconds"] for run in runs)}


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


@dataclass
class Limit:
    """What bounds the step of a problem with some number of threads: a candidate for Timings."""

    problem: Problem
    step_names: dict[str, Any]
    memory: bool
    count: int

    @property
    def name(self) -> str:
        return limit_name(self.memory, self.count)

    def timeit(self, number: int) -> float:
        # Many passes in one call, so that the start of threads does not count; but only over what stays in cache.
        passes = max(1, 2**20 // sum(p.size for p in self.problem.params))
        calls = -(-number // passes)
        names = self.step_names
        with threads(self.count):
            start = time.perf_counter()
            for _ in range(calls):
                _core._run_limit(names["p"], names["g"], names["state"], self.memory, passes)
            return (time.perf_counter() - start) * number / (calls * passes)


def limits(problem: Problem) -> list[Limit]:
    names = peers.rmsprop_fast(problem).names
    return [Limit(problem, names, memory, count) for memory in (True, False) for count in thread_counts()]


def limit_name(memory: bool, count: int) -> str:
    return f"{'memory' if memory else 'compute'} limit, threads={count}"


@functools.cache  # what is measured with one is looked up later
def thread_counts() -> list[int]:
    """Return 1, 2, 4, ... up to the default number of threads."""
    most = rf.get_num_threads()
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power < most)})


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Have steps use this many threads, however small they are; None: as they would by default."""
    share = _core._share()
    if count is not None:
        rf.set_num_threads(count)
        _core._set_share(0)
    try:
        yield
    finally:
        rf.set_num_threads(None)
        _core._set_share(share)


@contextlib.contextmanager
def all_threads(count: int) -> Iterator[None]:
    """Have numba and torch use this many threads, too."""
    modules = [sys.modules[name] for name in ("numba", "torch") if name in sys.modules]
    before = [module.get_num_threads() for module in modules]
    with threads(count):
        for module in modules:
            module.set_num_threads(count)
        try:
            yield
        finally:
            for module, number in zip(modules, before, strict=True):
                module.set_num_threads(number)


def free_memory() -> int:
    """Return the bytes that may be used without swapping; where that is not known, a modest number."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 4 * 2**30


def machine() -> dict[str, str]:
    """Describe what the figures belong to."""
    info = rf.info()
    found = {
        "processor": platform.processor() or platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "threads": str(info["threads"]),
        "kernel": str(info["kernel"]),
        "compiler": str(info["compiler"]),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
    }
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as lines:
        found["processor"] = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    for package in ("numexpr", "numba", "jax", "optax", "torch", "keras"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
