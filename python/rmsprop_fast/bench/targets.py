"""What rmsprop_fast promises about its speed, as ratios of what one run measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmsprop_fast.bench.compact import BITSANDBYTES
from rmsprop_fast.bench.loops import DEFAULT
from rmsprop_fast.bench.peers import ADAGRAD, FOREACH, JAX, LOOP, NUMBA_SERIAL, OURS, OUT
from rmsprop_fast.bench.problems import LARGE
from rmsprop_fast.bench.sparse import TABLE
from rmsprop_fast.bench.sparse_steps import DENSE, NUMPY, SPARSE_ADAGRAD, SPARSE_ADAM, TENSORFLOW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rmsprop_fast.bench.cases import Case
    from rmsprop_fast.bench.suite import Result


@dataclass(frozen=True)
class Target:
    """A figure and its bound."""

    what: str
    value: float
    most: float

    @property
    def is_reached(self) -> bool:
        return self.value <= self.most


def targets(result: Result) -> list[Target]:
    """Return those that this run measured all figures for."""
    return [
        *_loops(result),
        *_steps(result),
        *_rows(result),
        *_compact(result),
        *_default_threads(result),
        *_costs(result),
    ]


def _loops(result: Result) -> Iterator[Target]:
    for loop in result.loops:
        of_best = loop.ways[DEFAULT].of_best[1]
        yield Target(f"{loop.name}: whole loop by default, of {loop.best}", of_best, 1.05)
        bounds = {OUT: 1 / 1.6 if loop.name == "NumPy MLP, 1024 wide" else 1, LOOP: 1, FOREACH: 1, ADAGRAD: 1}
        for peer, most in bounds.items():
            if peer in loop.ways:
                yield Target(f"{loop.name}: whole loop, of {peer}", 1 / loop.ways[peer].of_default[1], most)


def _steps(result: Result) -> Iterator[Target]:
    for case in result.cases:
        if case.kind != "array":
            continue
        name, n = case.name, case.elements
        ours = case.rows[OURS].seconds[1]
        most = max(case.compute_limit)
        if n == 64:
            yield from _of(case, {NUMBA_SERIAL: 0.5, OUT: 0.07, LOOP: 0.01, FOREACH: 0.01})
        if n == 2**14:
            yield Target(f"{name}: time, of one thread's compute limit", ours / case.compute_limit[1], 1 / 0.9)
        if 2**18 <= n <= 2**20:
            yield Target(
                f"{name}: time, of the compute limit, {most} threads", ours / case.compute_limit[most], 1 / 0.85
            )
        if n >= LARGE:
            yield Target(f"{name}: time, of the memory limit", ours / min(case.memory_limit.values()), 1 / 0.95)
            yield from _of(case, {OUT: 1 / 6})
        if n >= 2**25:
            yield from _of(case, {LOOP: 1 / 5, FOREACH: 1 / 5, JAX: 1 / 2})
        if (n == 2**14 or n >= 2**18) and case.best_peer != OURS:
            yield Target(f"{name}: time, of the best peer, {case.best_peer}", case.rows[OURS].of_best_peer[1], 1.03)


def _of(case: Case, bounds: dict[str, float]) -> Iterator[Target]:
    """Yield a target for each of these peers: the time of ours, of theirs."""
    for peer, most in bounds.items():
        if peer in case.rows:
            yield Target(f"{case.name}: time, of {peer}", 1 / case.rows[peer].of_ours[1], most)


def _rows(result: Result) -> Iterator[Target]:
    bounds = {DENSE: 1 / 100, NUMPY: 1 / 5, SPARSE_ADAM: 1 / 5, SPARSE_ADAGRAD: 1, TENSORFLOW: 1}
    for case in result.sparse:
        for peer, most in bounds.items():
            if case.table == TABLE and peer in case.rows:
                what = f"{case.touched:,} rows of {case.table:,}: time, of {peer}"
                yield Target(what, 1 / case.rows[peer].of_ours[1], most)


def _compact(result: Result) -> Iterator[Target]:
    for case in result.compact:
        if case.elements == LARGE and BITSANDBYTES in case.rows:
            of_ours = case.rows[BITSANDBYTES].of_uint8[1]
            yield Target(f"uint8 s, {case.name}: time, of {BITSANDBYTES}", 1 / of_ours, 1 / 10)


def _default_threads(result: Result) -> Iterator[Target]:
    for found in result.default_threads:
        what = f"{found.name}, {found.between} between steps: default threads, of the best number"
        yield Target(what, found.of_best, 1.25)


def _costs(result: Result) -> Iterator[Target]:
    for _, ns, _ in result.tree_ns_per_leaf:
        yield Target("158 arrays: ns a leaf above the work", ns, 100)
    for fresh in result.fresh:
        if fresh.name == OURS:
            yield Target("cold start: ms above importing NumPy", fresh.seconds * 1e3, 30)
            if fresh.extra is not None:
                # What a page or two make.
                yield Target("extra memory of a step, bytes an element", fresh.extra, 0.05)
