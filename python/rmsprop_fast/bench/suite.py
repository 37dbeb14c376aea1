"""What is measured, in which order: see docs/performance.md."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rmsprop_fast.bench.cases import Case, Row, measure_case, measure_tree, subjects
from rmsprop_fast.bench.compact import (
    COMPACT_SIZES,
    QUICK_COMPACT_SIZES,
    CompactCase,
    CompactRow,
    measure_compact,
)
from rmsprop_fast.bench.loops import Loop, Way, measure_loop
from rmsprop_fast.bench.machine import machine
from rmsprop_fast.bench.peers import PEERS, missing
from rmsprop_fast.bench.problems import size_name
from rmsprop_fast.bench.processes import Fresh, measure_fresh
from rmsprop_fast.bench.sparse import RowCost, SparseCase, SparseRow, measure_row_cost, measure_rows, row_costs
from rmsprop_fast.bench.threads import BETWEEN, DefaultThreads, Scaling, measure_default_threads, measure_scaling
from rmsprop_fast.bench.timings import Quartiles
from rmsprop_fast.bench.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUICK_LOOPS = ("NumPy MLP, 64 wide", "PyTorch MLP, 64 wide")


@dataclass
class Result:
    """All that was measured; what of it there is depends on the machine and on `quick`."""

    machine: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)  # peers, loops and cases, and why
    loops: list[Loop] = field(default_factory=list)
    default_threads: list[DefaultThreads] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    tree_ns_per_leaf: list[Quartiles] = field(default_factory=list)
    scaling: list[Scaling] = field(default_factory=list)
    sparse: list[SparseCase] = field(default_factory=list)
    compact: list[CompactCase] = field(default_factory=list)
    row_costs: list[RowCost] = field(default_factory=list)
    fresh: list[Fresh] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Return what `as_dict` gave, but for what JSON makes of it: numbers of threads that are text."""
        found = json.loads(text)
        for loop in found["loops"]:
            loop["ways"] = {name: Way(**way) for name, way in loop["ways"].items()}
        for case in found["cases"]:
            case["rows"] = {name: Row(**row) for name, row in case["rows"].items()}
        for case in found["sparse"]:
            case["rows"] = {name: SparseRow(**row) for name, row in case["rows"].items()}
        for case in found["compact"]:
            case["rows"] = {name: CompactRow(**row) for name, row in case["rows"].items()}
        kinds: dict[str, Callable[..., Any]] = {
            "loops": Loop,
            "default_threads": DefaultThreads,
            "cases": Case,
            "scaling": Scaling,
            "sparse": SparseCase,
            "row_costs": RowCost,
            "compact": CompactCase,
            "fresh": Fresh,
        }
        return cls(**found | {name: [kind(**item) for item in found[name]] for name, kind in kinds.items()})


class Suite:
    """The whole run. `quick` measures fewer cases in fewer rounds."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.result = Result(machine())
        self.peers = []
        for peer in PEERS:
            if absent := missing(peer.packages):
                self.result.left_out[peer.name] = f"not installed: {', '.join(absent)}"
            elif quick and peer.compiles_long:
                self.result.left_out[peer.name] = "compiles for long: not in --quick"
            else:
                self.peers.append(peer)

    def tasks(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield all that is to be done, with a name: run each in turn, and find the outcome in `result`."""
        quick, result, left_out = self.quick, self.result, self.result.left_out

        def task(name: str, outcomes: list[Any], measure: Callable[..., Any], *arguments: Any) -> Any:
            return name, lambda: outcomes.append(measure(*arguments, quick))

        for workload in WORKLOADS:
            if absent := missing(workload.packages):
                left_out[workload.name] = f"not installed: {', '.join(absent)}"
            elif not quick or workload.name in QUICK_LOOPS:
                yield task(workload.name, result.loops, measure_loop, workload)
        # Before any peer is imported that has threads of its own.
        for exponent in (10, 16) if quick else (10, 12, 13, 14, 15, 16, 17, 18, 20, 22):
            for between in BETWEEN:
                name = f"default threads, {size_name(2**exponent)}, {between} between steps"
                yield task(name, result.default_threads, measure_default_threads, 2**exponent, between)
        for subject in subjects(quick):
            yield task(subject.name, result.cases, measure_case, subject, self.peers, left_out)
        yield task("tree of 158 arrays", result.tree_ns_per_leaf, measure_tree)
        for exponent in (14, 18) if quick else (14, 16, 18, 20, 22, 25):
            name = f"scaling, {size_name(2**exponent)}"
            yield task(name, result.scaling, measure_scaling, 2**exponent, self.peers, left_out)
        for size in QUICK_COMPACT_SIZES if quick else COMPACT_SIZES:
            yield task(f"compact, {size_name(size)}", result.compact, measure_compact, size, left_out)
        yield task("sparse rows", result.sparse, measure_rows, left_out)
        for table, touched in row_costs(quick):
            yield task(f"{touched:,} rows of {table:,}", result.row_costs, measure_row_cost, table, touched)
        for peer in self.peers:
            yield task(f"fresh process, {peer.name}", result.fresh, measure_fresh, peer)

    def run(self, name: str, task: Callable[[], None]) -> None:
        """Run a task; one that fails is named, and the others go on."""
        try:
            task()
        except Exception as error:
            self.result.left_out[name] = f"failed: {type(error).__name__}: {error}"
