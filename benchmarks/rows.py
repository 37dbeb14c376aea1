"""A step of the touched rows of a large table, beside what else there is: python benchmarks/rows.py

Medians of repeats that take turns. The rows are drawn by Zipf's law, as words of a text are, with duplicates.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import rmsprop_fast as rf

WIDTH, TOUCHED = 64, 4096


def candidates(table: Any, random: np.random.Generator) -> dict[str, Callable[[rf.Rows], object]]:
    """Return steps of the table, which each change what they keep for it, too."""
    dense = random.standard_normal(table.shape).astype(np.float32)
    states = {lazy: rf.init(table, lazy=lazy) for lazy in ("rows", "catch_up", "dense")}
    mean = np.zeros_like(table)
    param = torch.nn.Parameter(torch.from_numpy(table))
    optimizers = {"SparseAdam": torch.optim.SparseAdam([param]), "Adagrad": torch.optim.Adagrad([param])}

    def numpy_step(gradient: rf.Rows) -> None:
        rows, inverse = np.unique(gradient.rows, return_inverse=True)
        sums = np.zeros((len(rows), WIDTH), np.float32)
        np.add.at(sums, inverse, gradient.values)
        mean[rows] = s = 0.999 * mean[rows] + 0.001 * sums * sums
        table[rows] -= 0.01 * sums / (np.sqrt(s) + 1e-8)

    def torch_step(optimizer: torch.optim.Optimizer, coalesced: bool) -> Callable[[rf.Rows], None]:
        def step(gradient: rf.Rows) -> None:
            indices, values = torch.from_numpy(gradient.rows)[np.newaxis], torch.from_numpy(gradient.values)
            param.grad = torch.sparse_coo_tensor(indices, values, table.shape, check_invariants=False)
            if coalesced:
                param.grad = param.grad.coalesce()
            optimizer.step()

        return step

    return {
        "rmsprop_fast, lazy='rows'": lambda g: rf.step(table, g, states["rows"]),
        "rmsprop_fast, lazy='catch_up'": lambda g: rf.step(table, g, states["catch_up"]),
        "rmsprop_fast, lazy='dense'": lambda g: rf.step(table, g, states["dense"]),
        "rmsprop_fast, a dense gradient": lambda _: rf.step(table, dense, states["rows"]),
        "NumPy, np.unique and fancy indexing": numpy_step,
        "torch SparseAdam": torch_step(optimizers["SparseAdam"], coalesced=False),
        "torch SparseAdam, coalesced first": torch_step(optimizers["SparseAdam"], coalesced=True),
        "torch Adagrad": torch_step(optimizers["Adagrad"], coalesced=False),
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table")
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    table = random.standard_normal((options.rows, WIDTH)).astype(np.float32)
    gradients = []
    for _ in range(10):
        ranks = random.zipf(1.2, 8 * TOUCHED)
        rows = (ranks[ranks < options.rows][:TOUCHED] * 2_654_435_761) % options.rows  # anywhere in the table
        gradients.append(rf.Rows(rows, random.standard_normal((TOUCHED, WIDTH)).astype(np.float32)))
    steps = candidates(table, random)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(options.repeats + 2):
        for name, step in steps.items():
            step(gradients[repeat % 10])  # its own arrays are in cache as far as they can be
            started = time.perf_counter()
            step(gradients[(repeat + 1) % 10])
            if repeat >= 2:
                times[name].append(time.perf_counter() - started)
    ours = times["rmsprop_fast, lazy='rows'"]
    unique = statistics.median(len(np.unique(gradient.rows)) for gradient in gradients)
    print(f"{options.rows:,} x {WIDTH} float32, {TOUCHED:,} rows a step, {unique:,.0f} of them different\n")
    print("| step | median | times ours |\n| --- | --- | --- |")
    for name, seconds in times.items():
        ratio = statistics.median(other / own for other, own in zip(seconds, ours, strict=True))
        print(f"| {name} | {statistics.median(seconds) * 1e6:.0f} us | {ratio:.1f} |")


if __name__ == "__main__":
    main()
