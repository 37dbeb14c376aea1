"""Steps of the rows that a sparse gradient has, in a large table; and what a row costs, by the size of the table.

``python -m rmsprop_fast.bench.sparse`` times these alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import rmsprop_fast as rf
from rmsprop_fast.bench.machine import free_memory
from rmsprop_fast.bench.peers import missing
from rmsprop_fast.bench.sparse_steps import (
    ROWS,
    SPARSE_PEERS,
    Gradients,
    RowGradient,
    SparsePeer,
    Stepper,
    limit,
)
from rmsprop_fast.bench.steps import HYPER
from rmsprop_fast.bench.timings import Quartiles, Timings

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, TOUCHED = 64, 4096
TABLE, QUICK_TABLE = 1_000_000, 50_000  # rows
SECONDS = 0.005  # that each candidate runs in each round, at least
IN_NO_CACHE = 64 * 2**20  # bytes of values that candidates go through, gradient by gradient
LIMIT = "the limit"


@dataclass
class SparseRow:
    """One candidate."""

    seconds: Quartiles
    of_ours: Quartiles


@dataclass
class SparseCase:
    """How all candidates step so many rows, of which some are different, of a table; and the limit on this machine."""

    name: str
    table: int
    touched: int
    different: int
    limit: float  # seconds
    rows: dict[str, SparseRow]


@dataclass
class RowCost:
    """Nanoseconds a row, where all are different: of a step, and of the limit."""

    table: int
    touched: int
    ns: float
    limit_ns: float


@dataclass
class Cycle:
    """Steps with one gradient after another, as each leaves its rows in the caches: a candidate for Timings."""

    step: Stepper
    count: int
    at: int = 0

    def timeit(self, number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            self.at = (self.at + 1) % self.count
            self.step(self.at)
        return time.perf_counter() - start


def zipf_gradients(table: int, count: int, random: np.random.Generator) -> list[RowGradient]:
    """Draw rows by Zipf's law, as words of a text are: anywhere in the table, and some of them often."""
    gradients = []
    for _ in range(count):
        ranks = random.zipf(1.2, 8 * TOUCHED)
        rows = (ranks[ranks < table][:TOUCHED] * 2_654_435_761) % table
        gradients.append(RowGradient(rows, random.standard_normal((TOUCHED, WIDTH), np.float32)))
    return gradients


def different_gradients(table: int, touched: int, random: np.random.Generator) -> list[RowGradient]:
    """Draw rows of which none comes twice, in order."""
    count = max(4, min(256, IN_NO_CACHE // (4 * WIDTH * touched)))
    values = random.standard_normal((touched, WIDTH), np.float32)
    rows = (np.sort(random.choice(table, touched, replace=False)) for _ in range(count))
    return [RowGradient(some, values.copy()) for some in rows]


def check(peer: SparsePeer) -> None:
    """Raise AssertionError unless two steps are those of the reference, or if untouched rows change."""
    random = np.random.default_rng(0)
    table = random.standard_normal((50, 4), np.float32)
    start, expected = table.copy(), table.copy()
    gradients = [RowGradient(random.permutation(40)[:9], np.ones((9, 4), np.float32)) for _ in range(2)]
    step = peer.prepare(table, gradients)
    state = rf.init(expected, **HYPER)
    for i in range(2):
        step(i)
        rf.reference.step(expected, rf.Rows(*gradients[i]), state)
    if peer.is_rmsprop:
        np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-5)
    touched = np.unique([gradient.rows for gradient in gradients])
    assert (table[touched] != start[touched]).any(axis=1).all(), f"{peer.name}: expected other numbers in touched rows"


def measure_rows(left_out: dict[str, str], quick: bool) -> SparseCase:
    """Time every peer that is there, after a check. Raises MemoryError."""
    size = QUICK_TABLE if quick else TABLE
    if 16 * 4 * WIDTH * size > free_memory():
        raise MemoryError(f"needs {16 * 4 * WIDTH * size / 1e9:.1f} GB of free memory")
    random = np.random.default_rng(0)
    table = random.standard_normal((size, WIDTH), np.float32)
    gradients = zipf_gradients(size, 8 if quick else IN_NO_CACHE // (4 * WIDTH * TOUCHED), random)
    steppers = {LIMIT: limit(table, gradients)}
    for peer in SPARSE_PEERS:
        if absent := missing(peer.packages):
            left_out[peer.name] = f"not installed: {', '.join(absent)}"
        elif quick and peer.imports_long:
            left_out[peer.name] = "is imported for long: not in --quick"
        else:
            try:
                check(peer)
                steppers[peer.name] = peer.prepare(table, gradients)
            except Exception as error:
                if peer.name == ROWS:
                    raise
                left_out[peer.name] = f"failed: {type(error).__name__}: {error}"
    timings = _measure(steppers, gradients, rounds=5 if quick else 21)
    rows = {name: SparseRow(timings.quartiles(name), timings.ratio(name, ROWS)) for name in steppers if name != LIMIT}
    different = round(np.mean([len(np.unique(gradient.rows)) for gradient in gradients]))
    return SparseCase(f"{size:,} x {WIDTH}", size, TOUCHED, different, timings.median(LIMIT), rows)


def row_costs(quick: bool) -> Iterator[tuple[int, int]]:
    """Yield sizes of tables, and numbers of rows that a gradient has."""
    if quick:
        yield QUICK_TABLE, 1000
        return
    yield from ((10**exponent, 1000) for exponent in (4, 5, 6, 7))
    yield from ((10**6, 10**exponent) for exponent in (0, 1, 2, 4, 5))


def measure_row_cost(table: int, touched: int, quick: bool) -> RowCost:
    """Time a step and the limit. Raises MemoryError."""
    needed = 4 * 4 * WIDTH * table
    if needed > free_memory():
        raise MemoryError(f"needs {needed / 1e9:.1f} GB of free memory")
    random = np.random.default_rng(0)
    array = np.ones((table, WIDTH), np.float32)
    gradients = different_gradients(table, touched, random)
    ours = next(peer for peer in SPARSE_PEERS if peer.name == ROWS)
    steppers = {ROWS: ours.prepare(array, gradients), LIMIT: limit(array, gradients)}
    timings = _measure(steppers, gradients, rounds=5 if quick else 15)
    ns = {name: timings.median(name) / touched * 1e9 for name in steppers}
    return RowCost(table, touched, ns[ROWS], ns[LIMIT])


def _measure(steppers: dict[str, Stepper], gradients: Gradients, rounds: int) -> Timings:
    timings = Timings()
    candidates: dict[str, Any] = {name: Cycle(step, len(gradients)) for name, step in steppers.items()}
    timings.measure(candidates, rounds=rounds, seconds=SECONDS)
    return timings


def main() -> None:
    """Measure all, and print the tables in Markdown."""
    from rmsprop_fast.bench import report
    from rmsprop_fast.bench.suite import Result

    left_out: dict[str, str] = {}
    result = Result({}, left_out, sparse=[measure_rows(left_out, quick=False)])
    result.row_costs = [measure_row_cost(table, touched, quick=False) for table, touched in row_costs(quick=False)]
    print(report.markdown(result))


if __name__ == "__main__":
    main()
