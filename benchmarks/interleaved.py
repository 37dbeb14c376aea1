"""Ratios on a noisy machine: run the candidates in turn, many times, and compare what ran side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


class Timings:
    """Seconds a call of each candidate, round by round."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[float]] = {}

    def measure(self, candidates: Mapping[str, Callable[[], object]], *, rounds: int, seconds: float) -> None:
        """Add rounds in which each candidate is called once, or as often as fits into the seconds."""
        for _ in range(rounds):
            for name, call in candidates.items():
                call()  # bring caches and threads into this candidate's state
                calls, start = 0, time.perf_counter()
                deadline = start + seconds
                while True:
                    call()
                    calls += 1
                    if calls & (calls - 1) == 0 and time.perf_counter() >= deadline:
                        break
                self.rounds.setdefault(name, []).append((time.perf_counter() - start) / calls)

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, other: str) -> tuple[float, float, float]:
        """Return lower quartile, median and upper quartile of name / other, round by round."""
        ratios = [a / b for a, b in zip(self.rounds[name], self.rounds[other], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return low, middle, high
