"""Real training loops: what a producer of gradients and a step take together, as each may take the other's cores.

``python -m rmsprop_fast.bench.loops [NAME ...]`` times only these, or those of them with such names.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import rmsprop_fast as rf
from rmsprop_fast.bench.machine import thread_counts
from rmsprop_fast.bench.peers import ADAGRAD, PEERS
from rmsprop_fast.bench.problems import make_problem
from rmsprop_fast.bench.processes import run_python
from rmsprop_fast.bench.steps import INITIAL_S
from rmsprop_fast.bench.timings import Quartiles, Timings
from rmsprop_fast.bench.workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from rmsprop_fast.bench.steps import Array

DEFAULT = "default threads"

# Other variants' threads still wait, awake, for some 10 ms when a block begins.
WARM_UP, BLOCK = 0.05, 0.15  # seconds
ROUNDS, QUICK_ROUNDS = 15, 3
TIMEOUT = 300  # seconds, of a loop

CHECKED_STEPS = 10

Seconds = tuple[float, float]  # of an iteration: in its gradients, in its step


@dataclass
class Way:
    """One way to take the steps of a loop, in seconds an iteration."""

    whole: Quartiles
    parts: Seconds
    of_best: Quartiles  # of the time of ours with the best fixed number of threads, round by round
    of_default: Quartiles


@dataclass
class Loop:
    """A loop, with ours by default and with each number of threads, and with its peers."""

    name: str
    elements: int
    best: str  # of the fixed numbers of threads
    ways: dict[str, Way]


def fixed(count: int) -> str:
    return f"threads={count}"


class Variants:
    """All ways to take the steps of one workload, on the same arrays, in this process."""

    def __init__(self, workload: Workload) -> None:
        self.start, self.gradients = workload.prepare()
        self.problem = make_problem([p.shape for p in self.start])
        steps = {
            peer.name: peer.prepare(self.problem).function()
            for peer in PEERS
            if peer.name in (workload.ours, *workload.peers)
        }
        ours = steps.pop(workload.ours)
        counts = {DEFAULT: None, **{fixed(count): count for count in thread_counts()}, **dict.fromkeys(steps)}
        self.counts: dict[str, int | None] = counts
        self.steps: dict[str, Callable[[], object]] = dict.fromkeys(counts, ours) | steps

    def begin(self, name: str) -> Callable[[], object]:
        """Return to the start, and return the step of this variant."""
        rf.set_num_threads(self.counts[name])
        for p, start, s in zip(self.problem.params, self.start, self.problem.s, strict=True):
            p[...] = start
            s[...] = INITIAL_S
        return self.steps[name]

    def check(self) -> None:
        """Raise AssertionError if some loss does not fall, or the parameters do not go the same way."""
        ours: list[Array] = []
        for name in self.steps:
            step = self.begin(name)
            first = self.gradients(self.problem, 0)
            for batch in range(1, CHECKED_STEPS + 1):
                step()
                self.gradients(self.problem, batch)
            last = self.gradients(self.problem, 0)
            assert last < first, f"{name}: expected a loss below {first:.6g}, got {last:.6g}"
            if name == DEFAULT:
                ours = [p.copy() for p in self.problem.params]
            elif name != ADAGRAD:
                off = _distance(ours, self.problem.params) / _distance(ours, self.start)
                assert off < 1e-4, f"{name}: expected to go the way of {DEFAULT}, got {off:.2g} of the way off"

    def run(self, name: str) -> Seconds:
        """Run a block of iterations."""
        step, gradients, problem = self.begin(name), self.gradients, self.problem
        batch = 0
        warm = time.perf_counter() + WARM_UP
        while batch < 2 or time.perf_counter() < warm:
            gradients(problem, batch)
            step()
            batch += 1
        producer = stepping = 0.0
        first = batch
        while batch < first + 3 or producer + stepping < BLOCK:
            start = time.perf_counter()
            gradients(problem, batch)
            between = time.perf_counter()
            step()
            stepping += time.perf_counter() - between
            producer += between - start
            batch += 1
        return producer / (batch - first), stepping / (batch - first)


def _distance(some: list[Array], others: list[Array]) -> float:
    squares = (np.square(a - b, dtype=np.float64).sum() for a, b in zip(some, others, strict=True))
    return float(np.sqrt(sum(squares)))


def measure_here(workload: Workload, rounds: int) -> dict[str, Any]:
    """Return the rounds of each variant in this process, as JSON can hold them."""
    variants = Variants(workload)
    variants.check()
    measured: dict[str, list[Seconds]] = {name: [] for name in variants.steps}
    order = list(measured)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            measured[name].append(variants.run(name))
    return {"elements": sum(p.size for p in variants.start), "rounds": measured}


def measure_loop(workload: Workload, quick: bool) -> Loop:
    """Measure a loop in a new process."""
    rounds = str(QUICK_ROUNDS if quick else ROUNDS)
    found = run_python("-m", __spec__.name, "--here", rounds, workload.name, timeout=TIMEOUT)
    return loop(workload.name, found["elements"], found["rounds"])


def loop(name: str, elements: int, rounds: dict[str, list[Seconds]]) -> Loop:
    """Return the figures of what was measured."""
    timings = Timings()
    timings.rounds = {way: [sum(seconds) for seconds in measured] for way, measured in rounds.items()}
    best = min((fixed(count) for count in thread_counts()), key=timings.median)
    ways = {
        way: Way(
            whole=timings.quartiles(way),
            parts=(statistics.median(a for a, _ in measured), statistics.median(b for _, b in measured)),
            of_best=timings.ratio(way, best),
            of_default=timings.ratio(way, DEFAULT),
        )
        for way, measured in rounds.items()
    }
    return Loop(name, elements, best, ways)


def main() -> None:
    from rmsprop_fast.bench import report

    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all or part of: {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--here", type=int, metavar="ROUNDS", help="run in this process, and print every round as JSON")
    options = parser.parse_args()
    for wanted in options.names:
        if not any(wanted in name for name in names):
            parser.error(f"NAME: expected a part of a loop's name, got {wanted}")
    for workload in WORKLOADS:
        if options.names and not any(wanted in workload.name for wanted in options.names):
            continue
        if options.here:
            print(json.dumps(measure_here(workload, options.here)))
        else:
            print(report.loops_in_markdown([measure_loop(workload, options.quick)]), flush=True)


if __name__ == "__main__":
    main()
