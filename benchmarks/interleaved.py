"""Ratios on a noisy machine: run the candidates in turn, many times, and compare what ran side by side."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from timeit import Timer

Quartiles = tuple[float, float, float]


class Timings:
    """Seconds a call of each candidate, round by round."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[float]] = {}

    def measure(self, candidates: Mapping[str, Timer], *, rounds: int, seconds: float) -> None:
        """Add rounds, in each of which every candidate runs for about these seconds, at least once, in any order."""
        numbers = {name: max(1, round(seconds / min(timer.repeat(3, 1)))) for name, timer in candidates.items()}
        order = list(candidates)
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                candidates[name].timeit(1)  # bring caches and threads into this candidate's state
                total = candidates[name].timeit(numbers[name])
                self.rounds.setdefault(name, []).append(total / numbers[name])

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, other: str) -> Quartiles:
        """Return the quartiles of name / other, round by round."""
        ratios = [a / b for a, b in zip(self.rounds[name], self.rounds[other], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return low, middle, high


def require(label: str, ratio: Quartiles, most: float) -> None:
    """Print the ratio, and fail if its median is above the target."""
    low, middle, high = ratio
    line = f"{label}: {middle:.3f} (quartiles {low:.3f} to {high:.3f}), target at most {most:.3g}"
    print(line)
    assert middle <= most, line
