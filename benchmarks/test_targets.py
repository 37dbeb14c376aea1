"""The targets, as ratios in one run, and the README's table: pytest -s benchmarks/test_targets.py"""

from __future__ import annotations

import statistics
import subprocess
import sys
from timeit import Timer
from typing import Any

import numpy as np
import pytest

import peers
import rmsprop_fast as rf
from interleaved import Timings, require
from peers import OURS, STREAMS


@pytest.fixture(scope="module")
def timings() -> dict[str, Timings]:
    """Measure all sizes; large arrays in several places, as pages fall better or worse."""
    measured = {}
    for label, size in peers.SIZES.items():
        measured[label] = Timings()
        places, rounds = (5, 7) if size >= 2**22 else (1, 41)
        for _ in range(places):
            timers = peers.timers(peers.make_arrays(size))
            # Apart and last, as its temporaries come from the system and go back to it, which slows down what follows.
            temporaries = {"NumPy, temporaries": timers.pop("NumPy, temporaries")} if size >= 2**22 else {}
            measured[label].measure(timers, rounds=rounds, seconds=0.005)
            measured[label].measure(temporaries, rounds=rounds, seconds=0.005)
    print("\n\n" + table(measured))
    return measured


def table(measured: dict[str, Timings]) -> str:
    lines = ["| one step of n float32 | n = " + " | ".join(measured) + " |", "| --- " * (len(measured) + 1) + "|"]
    for name in peers.STATEMENTS:
        cells = []
        for timing in measured.values():
            time = timing.median(name) * 1e6
            ratio = timing.ratio(name, OURS)[1]
            figure = f"{time:.2f} us" if time < 100 else f"{time:.0f} us" if time < 1000 else f"{time / 1000:.1f} ms"
            cells.append(figure if name == OURS else f"{figure} ({ratio:.2f} x)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def numba_best(timing: Timings) -> str:
    return min(("numba, serial", "numba, parallel"), key=timing.median)


def test_small_call(timings: dict[str, Timings]) -> None:
    require("n = 64, of numba's serial dispatch", timings["64"].ratio(OURS, "numba, serial"), 0.6)


@pytest.mark.parametrize("size", ["16 Ki", "256 Ki"])
def test_in_cache(timings: dict[str, Timings], size: str) -> None:
    best = numba_best(timings[size])
    require(f"n = {size}, of {best}", timings[size].ratio(OURS, best), 1.05)


def test_in_memory(timings: dict[str, Timings]) -> None:
    require("n = 32 Mi, of moving the streams", timings["32 Mi"].ratio(OURS, STREAMS), 1.05)
    require("n = 32 Mi, of NumPy with out=", timings["32 Mi"].ratio(OURS, "NumPy, out="), 1 / 6)


# What the family may cost, as a ratio to the bare step: in cache, and in memory.
MEANS: dict[str, Any] = {"centered": True, "momentum": 0.9}
CHECKS: dict[str, Any] = {"clip_global_norm": 1e9, "weight_decay": 1e-4, "skip_nonfinite": True}
FAMILY = {
    "centered, momentum": (MEANS, 1.6, 1.1 * 36 / 20),  # 36 bytes an element instead of 20
    "clip_global_norm, weight_decay, skip_nonfinite": (CHECKS, 1.6, 1.4),  # 24, as gradients are read twice
    "all of these": ({**MEANS, **CHECKS}, 1.6, float("inf")),
}


@pytest.mark.parametrize("size", ["16 Ki", "32 Mi"])
def test_family(size: str) -> None:
    timing = Timings()
    places, rounds = (5, 9) if size == "32 Mi" else (5, 41)
    for _ in range(places):
        arrays = peers.make_arrays(peers.SIZES[size])
        names = {"step": rf.step, "p": arrays.p, "g": arrays.g}
        timers = {"bare": Timer("step(p, g, state)", globals={**names, "state": arrays.state})}
        for name, (hyper, _, _) in FAMILY.items():
            state = rf.init(arrays.p, lr=1e-9, **hyper)  # where p does not run away
            timers[name] = Timer("step(p, g, state)", globals={**names, "state": state})
        timing.measure(timers, rounds=rounds, seconds=0.005)
    for name, (_, in_cache, in_memory) in FAMILY.items():
        most = in_memory if size == "32 Mi" else in_cache
        require(f"n = {size}, {name}, of the bare step", timing.ratio(name, "bare"), most)


def test_tree_of_many_leaves() -> None:
    """What 158 leaves cost above the same elements in one array, in one thread."""
    leaves, size = 158, 64
    params = {f"layer{index}": np.zeros(size, np.float32) for index in range(leaves)}
    grads = {name: np.ones(size, np.float32) for name in params}
    state = rf.init(params)
    whole, whole_grads = np.zeros(leaves * size, np.float32), np.ones(leaves * size, np.float32)
    whole_state = rf.init(whole)
    timing = Timings()
    rf.set_num_threads(1)
    candidates = {
        "tree": Timer("step(params, grads, state)", globals={**locals(), "step": rf.step}),
        "array": Timer("step(whole, whole_grads, whole_state)", globals={**locals(), "step": rf.step}),
    }
    timing.measure(candidates, rounds=41, seconds=0.005)
    rf.set_num_threads(None)
    above = [(a - b) / leaves * 1e6 for a, b in zip(timing.rounds["tree"], timing.rounds["array"], strict=True)]
    low, middle, high = statistics.quantiles(above, n=4)
    require("158 leaves, us a leaf above the work", (low, middle, high), 0.1)


def test_cold_start() -> None:
    """Import and first step, over NumPy's import, each in a fresh process."""
    code = """if True:
        import time, numpy
        start = time.perf_counter()
        import rmsprop_fast
        p = numpy.zeros(64, "f")
        rmsprop_fast.step(p, numpy.ones(64, "f"), rmsprop_fast.init(p))
        print(time.perf_counter() - start)
    """
    times = [float(subprocess.check_output([sys.executable, "-c", code])) * 1e3 for _ in range(21)]
    low, middle, high = statistics.quantiles(times, n=4)
    require("import and first step, ms", (low, middle, high), 20)
