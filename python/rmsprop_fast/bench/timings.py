"""Ratios on a noisy machine: run the candidates in turn, many times, and compare what ran side by side."""

from __future__ import annotations

import random
import statistics
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

Quartiles = tuple[float, float, float]


class Candidate(Protocol):
    """What runs a number of times and returns the seconds that it took, as a timeit.Timer."""

    def timeit(self, number: int, /) -> float: ...


class Timings:
    """Seconds a call of each candidate, round by round."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[float]] = {}

    def measure(self, candidates: Mapping[str, Candidate], *, rounds: int, seconds: float) -> None:
        """Add rounds, in each of which every candidate runs for about these seconds, at least once, in any order."""
        numbers = {
            name: max(1, round(seconds / max(1e-8, min(candidate.timeit(1) for _ in range(3)))))
            for name, candidate in candidates.items()
        }
        order = list(candidates)
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                candidates[name].timeit(1)  # bring caches and threads into this candidate's state
                total = candidates[name].timeit(numbers[name])
                self.rounds.setdefault(name, []).append(total / numbers[name])

    def quartiles(self, name: str) -> Quartiles:
        return quartiles(self.rounds[name])

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, other: str) -> Quartiles:
        """Return the quartiles of name / other, round by round."""
        return quartiles([a / b for a, b in zip(self.rounds[name], self.rounds[other], strict=True)])


def quartiles(numbers: list[float]) -> Quartiles:
    low, middle, high = statistics.quantiles(numbers, n=4) if len(numbers) > 1 else numbers * 3
    return low, middle, high


def time_text(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
