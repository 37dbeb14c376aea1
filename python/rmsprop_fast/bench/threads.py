"""A step by number of threads, in tight loops and after pauses; `loops` has what happens in a training."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import rmsprop_fast as rf
from rmsprop_fast.bench.machine import all_threads, thread_counts, threads
from rmsprop_fast.bench.peers import ADAGRAD, NUMBA_PARALLEL, OURS
from rmsprop_fast.bench.problems import make_problem, size_name, timers
from rmsprop_fast.bench.timings import Timings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rmsprop_fast.bench.peers import Peer

SCALES = (OURS, NUMBA_PARALLEL, ADAGRAD)  # what can be told how many threads to use
SECONDS = 0.005  # that each candidate runs in each round, and that a pause takes


@dataclass
class Scaling:
    """Seconds of a step of so many elements: peer -> with this number of threads."""

    name: str
    seconds: dict[str, dict[int, float]]


@dataclass
class DefaultThreads:
    """Seconds of a step of so many elements by default, and with each number of threads."""

    name: str
    between: str
    default: float
    seconds: dict[int, float]
    of_best: float  # the default's, of those of the best number


def measure_scaling(elements: int, some: Sequence[Peer], left_out: dict[str, str], quick: bool) -> Scaling:
    scaling = Scaling(size_name(elements), {})
    for count in thread_counts():
        problem = make_problem([(elements,)])
        timings = Timings()
        with all_threads(count):
            able = [peer for peer in some if peer.name in SCALES]
            candidates = timers(able, problem, f"threads={count}", left_out)
            timings.measure(candidates, rounds=5 if quick else 15, seconds=SECONDS)
        for name in timings.rounds:
            scaling.seconds.setdefault(name, {})[count] = timings.median(name)
    return scaling


def _work() -> None:
    end = time.perf_counter() + SECONDS
    matrix = np.ones((200, 200), np.float32)  # so large that OpenBLAS uses its threads
    while time.perf_counter() < end:
        np.matmul(matrix, matrix)


BETWEEN: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "5 ms of matmul": _work,
    "5 ms of sleep": lambda: time.sleep(SECONDS),
}


def measure_default_threads(elements: int, between: str, quick: bool) -> DefaultThreads:
    """Measure the default number of threads against every fixed one, with that between the steps."""
    problem = make_problem([(elements,)])
    p, g, state = problem.params[0], problem.grads[0], problem.state
    pause = BETWEEN[between]
    repeats = max(1, min(200, 2**20 // elements)) if between == "nothing" else 1
    rounds: dict[int | None, list[float]] = {count: [] for count in (None, *thread_counts())}
    for _ in range(9 if quick else 121):
        for count in random.sample(list(rounds), len(rounds)):
            with threads(count):
                rf.step(p, g, state)
                pause()
                start = time.perf_counter()
                for _ in range(repeats):
                    rf.step(p, g, state)
                rounds[count].append((time.perf_counter() - start) / repeats)
    default = statistics.median(rounds[None])
    fixed = {count: statistics.median(seconds) for count, seconds in rounds.items() if count is not None}
    return DefaultThreads(size_name(elements), between, default, fixed, default / min(fixed.values()))
