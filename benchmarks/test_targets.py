"""The targets, as ratios in one run of python -m rmsprop_fast bench: pytest -s benchmarks/test_targets.py"""

from __future__ import annotations

from timeit import Timer
from typing import Any

import pytest

import rmsprop_fast as rf
from require import require
from rmsprop_fast.bench.peers import PEERS
from rmsprop_fast.bench.problems import checked, make_problem
from rmsprop_fast.bench.suite import Suite
from rmsprop_fast.bench.targets import targets
from rmsprop_fast.bench.timings import Timings


def test_suite() -> None:
    suite = Suite(quick=False)
    for name, task in suite.tasks():
        print(name)
        suite.run(name, task)
    missed = []
    for target in targets(suite.result):
        line = f"{target.what}: {target.value:.3f}, target at most {target.most:.3g}"
        print(line)
        if not target.is_reached:
            missed.append(line)
    assert not suite.result.left_out
    assert not missed, "\n".join(missed)


# What the family may cost, as a ratio to the bare step: in cache, and in memory.
MEANS: dict[str, Any] = {"centered": True, "momentum": 0.9}
CHECKS: dict[str, Any] = {"clip_global_norm": 1e9, "weight_decay": 1e-4, "skip_nonfinite": True}
FAMILY = {
    "centered, momentum": (MEANS, 1.6, 1.1 * 36 / 20),  # 36 bytes an element instead of 20
    "clip_global_norm, weight_decay, skip_nonfinite": (CHECKS, 1.6, 1.4),  # 24, as gradients are read twice
    "all of these": ({**MEANS, **CHECKS}, 1.6, float("inf")),
}


@pytest.mark.parametrize("size", [2**14, 2**25])
def test_family(size: int) -> None:
    timing = Timings()
    for _ in range(5):
        problem = make_problem([(size,)])
        timers = {"bare": checked(PEERS[0], problem).timer()}
        names = {"step": rf.step, "p": problem.params[0], "g": problem.grads[0]}
        for name, (options, _, _) in FAMILY.items():
            state = rf.init(problem.params[0], lr=1e-9, **options)  # where p does not run away
            timers[name] = Timer("step(p, g, state)", globals={**names, "state": state})
        timing.measure(timers, rounds=9 if size == 2**25 else 41, seconds=0.005)
    for name, (_, in_cache, in_memory) in FAMILY.items():
        most = in_memory if size == 2**25 else in_cache
        require(f"n = {size}, {name}, of the bare step", timing.ratio(name, "bare"), most)
