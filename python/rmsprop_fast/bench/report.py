"""What was measured, as tables.

``python -m rmsprop_fast.bench.report FILE.json`` prints them in Markdown, from what ``bench --json FILE.json`` wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rmsprop_fast.bench.loops import DEFAULT
from rmsprop_fast.bench.peers import OURS, OURS_TORCH, PEERS
from rmsprop_fast.bench.plot import plot
from rmsprop_fast.bench.suite import Result
from rmsprop_fast.bench.timings import time_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from rmsprop_fast.bench.cases import Case, Row
    from rmsprop_fast.bench.loops import Loop
    from rmsprop_fast.bench.targets import Target

__all__ = ["loops_in_markdown", "markdown", "plot", "tables"]

KINDS = {"array": "One step of n float32", "model": "One step of a whole model", "extras": "With fused extras"}
COLUMNS = 7  # of cases, in one table in Markdown


class Content(NamedTuple):
    """A table's; an empty row divides it."""

    title: str
    headers: Sequence[str]
    rows: list[list[str]]
    texts: int = 1  # columns that are no numbers


def number_text(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"


def tables(result: Result, targets: list[Target]) -> Iterator[Table]:
    """Yield what there is to print, in order."""
    for content in [
        _loops(result.loops),
        *(_cases(kind, result.cases) for kind in KINDS),
        *_compact(result),
        *_sparse(result),
        *_others(result),
        _targets(targets),
        Content("Left out", ("what", "why"), [list(item) for item in result.left_out.items()], texts=2),
    ]:
        if content.rows:
            yield _for_terminal(content)


def markdown(result: Result) -> str:
    """Return the tables of docs/performance.md."""
    contents = [*_loops_side_by_side(result.loops), *_cases_side_by_side(result.cases)]
    contents += [*_compact(result), *_sparse(result)]
    return "\n".join(_in_markdown(content) for content in [*contents, *_others(result)] if content.rows)


def loops_in_markdown(loops: list[Loop]) -> str:
    return "\n".join(map(_in_markdown, _loops_side_by_side(loops)))


def _for_terminal(content: Content) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=content.title, title_justify="left")
    for index, header in enumerate(content.headers):
        is_text = index < content.texts
        table.add_column(header, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in content.rows:
        if row:
            table.add_row(*map(escape, row), style="bold" if {OURS, DEFAULT} & set(row[:2]) else "")
        else:
            table.add_section()
    return table


def _in_markdown(content: Content) -> str:
    rows = [content.headers, ["---"] * len(content.headers), *content.rows]
    lines = [" | ".join(f"**{cell}**" if cell in (OURS, OURS_TORCH) else cell for cell in row) for row in rows if row]
    return "\n".join([f"### {content.title}", "", *(f"| {line} |" for line in lines), ""])


def _loops(loops: list[Loop]) -> Content:
    rows: list[list[str]] = []
    for loop in loops:
        for name, way in loop.ways.items():
            low, median, high = way.whole
            ratios = (number_text(ratio[1]) for ratio in (way.of_default, way.of_best))
            times = (time_text(median), f"{time_text(low)} to {time_text(high)}", *map(time_text, way.parts))
            rows.append([loop.name, name, *times, *ratios])
        rows.append([])
    headers = ("loop", "", "iteration", "quartiles", "gradients", "step", "of the default", "of the best")
    return Content("Training loops", headers, rows, texts=2)


def _loops_side_by_side(loops: list[Loop]) -> Iterator[Content]:
    """Yield a table for the loops that have the same ways to take their steps."""
    for ways in dict.fromkeys(tuple(loop.ways) for loop in loops):
        rows = []
        for loop in loops:
            if tuple(loop.ways) != ways:
                continue
            cells = []
            for name, way in loop.ways.items():
                ratio = "" if name == DEFAULT else f" ({way.of_default[1]:.2f} x)"
                cells.append(f"{time_text(way.whole[1])} = {' + '.join(map(time_text, way.parts))}{ratio}")
            low, median, high = loop.ways[DEFAULT].of_best
            rows.append([loop.name, *cells, f"{median:.2f} ({low:.2f} to {high:.2f})"])
        headers = ("an iteration = gradients + step", *ways, "default, of the best number")
        yield Content("Training loops", headers, rows)


def _cases(kind: str, cases: list[Case]) -> Content:
    rows: list[list[str]] = []
    for case in cases:
        if case.kind != kind:
            continue
        for name, row in sorted(case.rows.items(), key=lambda item: item[1].seconds[1]):
            low, median, high = row.seconds
            rows.append(
                [
                    case.name,
                    name,
                    time_text(median),
                    f"{time_text(low)} to {time_text(high)}",
                    number_text(row.ns_per_element),
                    number_text(row.gb_per_s),
                    f"{row.share_of_limit:.2%}",
                    number_text(row.of_best_peer[1]),
                ]
            )
        bound = "memory" if min(case.memory_limit.values()) >= min(case.compute_limit.values()) else "compute"
        gb_per_s = case.elements * case.bytes_per_element / case.limit / 1e9
        ns = number_text(case.limit / case.elements * 1e9)
        limit = ["", f"the limit: {bound}", time_text(case.limit), "", ns, number_text(gb_per_s), "", ""]
        rows += [limit, []]
    headers = ("case", "", "time", "quartiles", "ns/element", "GB/s", "of the limit", "of the best peer")
    return Content(KINDS[kind], headers, rows, texts=2)


def _cases_side_by_side(cases: list[Case]) -> Iterator[Content]:
    for kind, title in KINDS.items():
        all_of_them = [case for case in cases if case.kind == kind]
        for first in range(0, len(all_of_them), COLUMNS):
            some = all_of_them[first : first + COLUMNS]
            rows = []
            for peer in PEERS:
                found = [case.rows.get(peer.name) for case in some]
                if any(found):
                    rows.append([peer.name, *(_cell(peer.name, row) for row in found)])
            ours = [f"{time_text(case.limit)}, {case.rows[OURS].share_of_limit:.0%}" for case in some]
            rows.append(["the limit here, and our share of it", *ours])
            yield Content(title, ("", *(case.name for case in some)), rows)


def _cell(name: str, row: Row | None) -> str:
    if row is None:
        return ""
    ratio = "" if name == OURS else f" ({number_text(row.of_ours[1])} x)"
    return time_text(row.seconds[1]) + ratio


def _others(result: Result) -> Iterator[Content]:
    """Yield what looks the same everywhere."""
    fresh = [
        [
            found.name,
            time_text(found.seconds),
            "" if found.extra is None else f"{found.extra:.1f}",
            "" if found.peak is None else f"{found.peak / 1e6:.0f}",
        ]
        for found in result.fresh
    ]
    headers = ("", "import and first step", "extra bytes an element in a step", "peak of the process, MB")
    yield Content("In a fresh process, after importing NumPy", headers, fresh)

    names = list(dict.fromkeys(name for scaling in result.scaling for name in scaling.seconds))
    scaling = [
        [row.name, str(count), *(time_text(found[count]) if count in found else "" for found in by_name)]
        for row in result.scaling
        for by_name in [[row.seconds.get(name, {}) for name in names]]
        for count in row.seconds[OURS]
    ]
    yield Content("Scaling over threads", ("n", "threads", *names), scaling)

    counts = list(dict.fromkeys(f"threads={count}" for row in result.default_threads for count in row.seconds))
    default = [
        [row.name, row.between, *map(time_text, (row.default, *row.seconds.values())), f"{row.of_best:.2f}"]
        for row in result.default_threads
    ]
    columns = ("n", "between steps", "default", *counts, "of the best")
    yield Content("The default number of threads", columns, default, texts=2)


def _compact(result: Result) -> Iterator[Content]:
    for case in result.compact:
        rows = []
        for name, row in case.rows.items():
            low, median, high = row.seconds
            rows.append(
                [
                    name,
                    time_text(median),
                    f"{time_text(low)} to {time_text(high)}",
                    number_text(row.ns_per_element),
                    f"{row.of_float32[1]:.3g}",
                    f"{row.of_uint8[1]:.3g}",
                    f"{row.bytes_per_element:.3g}",
                    f"{row.share_of_limit:.0%}",
                ]
            )
        headers = ("", "time", "quartiles", "ns/element", "of float32", "of uint8 s", "bytes/element", "of the limit")
        yield Content(f"A step with compact state and parameters, {case.name}", headers, rows)


def _sparse(result: Result) -> Iterator[Content]:
    for case in result.sparse:
        title = f"A step of {case.touched:,} rows, {case.different:,} of them different, of {case.name} float32"
        rows = []
        for name, row in sorted(case.rows.items(), key=lambda item: item[1].seconds[1]):
            low, median, high = row.seconds
            times = (time_text(median), f"{time_text(low)} to {time_text(high)}")
            rows.append([name, *times, number_text(row.of_ours[1])])
        rows.append(["the limit: to read and write each row once", time_text(case.limit), "", ""])
        yield Content(title, ("", "time", "quartiles", "of ours"), rows)
    costs = [
        [f"{cost.table:,}", f"{cost.touched:,}", f"{cost.ns:.0f} ns", f"{cost.limit_ns:.0f} ns"]
        for cost in result.row_costs
    ]
    headers = ("rows of the table", "rows of the gradient", "time a row", "the limit, a row")
    yield Content("A step of rows of 64 float32, all different", headers, costs)


def _targets(targets: list[Target]) -> Content:
    rows = [[t.what, f"{t.value:.3g}", f"{t.most:.3g}", "reached" if t.is_reached else "missed"] for t in targets]
    return Content("Targets", ("", "measured", "at most", ""), rows)


if __name__ == "__main__":
    print(markdown(Result.from_json(Path(sys.argv[1]).read_text())))
