"""What bounds a step on this machine: moving its streams, and its divisions and roots."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rmsprop_fast import _core
from rmsprop_fast.bench.machine import thread_counts, threads
from rmsprop_fast.bench.steps import Problem, rmsprop_fast


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
    names = rmsprop_fast(problem).names
    return [Limit(problem, names, memory, count) for memory in (True, False) for count in thread_counts()]


def limit_name(memory: bool, count: int) -> str:
    return f"{'memory' if memory else 'compute'} limit, threads={count}"
