"""A target that a benchmark asserts."""

from __future__ import annotations

from rmsprop_fast.bench.timings import Quartiles


def require(label: str, ratio: Quartiles, most: float) -> None:
    """Print the ratio, and fail if its median is above the target."""
    low, middle, high = ratio
    line = f"{label}: {middle:.3f} (quartiles {low:.3f} to {high:.3f}), target at most {most:.3g}"
    print(line)
    assert middle <= most, line
