"""How far two ways that differ in nothing but roundings may part."""

from __future__ import annotations

import numpy as np

from bits import Array

# The largest difference of a parameter, as a part of its size and of the way that it has gone: a few roundings of
# float32 (2**-24 = 6e-8) and of float64. Measured are up to 4e-7 and 6e-16.
TOLERANCE = 2e-6
TOLERANCE_FLOAT64 = 1e-14

# With centered, the frameworks subtract: s - m**2. Where the mean of a gradient is ten times its standard deviation,
# the two agree in two digits, and what is left has lost them. Ours keeps this variance itself. Measured: up to 1.5e-5.
TOLERANCE_CENTERED = 3e-5


def difference(ours: Array, theirs: Array) -> float:
    """Return the largest difference, as a part of a parameter's size and of the way that it has gone.

    `theirs` are the parameters after 0, 1, 2, ... steps; `ours` those after the last of these steps.
    """
    way = np.cumsum(np.abs(np.diff(theirs, axis=0)), axis=0)
    steps = min(len(ours), len(way))
    return float(np.max(np.abs(ours - theirs[-len(ours) :])[-steps:] / (np.abs(theirs[1:]) + way)[-steps:]))
