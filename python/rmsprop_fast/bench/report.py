"""What was measured, as tables and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmsprop_fast.bench.loops import DEFAULT
from rmsprop_fast.bench.peers import ADAGRAD, OURS, PEERS
from rmsprop_fast.bench.suite import size_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.table import Table

    from rmsprop_fast.bench.loops import Loop
    from rmsprop_fast.bench.suite import Case, Result
    from rmsprop_fast.bench.targets import Target

TITLES = {"array": "One step of n float32", "model": "One step of a whole model", "extras": "With fused extras"}


def time_text(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def number_text(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"


def tables(result: Result, targets: list[Target]) -> Iterator[Table]:
    """Yield what there is to print, in order."""
    for kind, title in TITLES.items():
        cases = [case for case in result.cases if case.kind == kind]
        if cases:
            yield _cases(title, cases)
    if result.fresh:
        yield _fresh(result)
    if result.scaling:
        yield _scaling(result)
    if result.default_threads:
        yield _default_threads(result)
    if targets:
        yield _targets(targets)
    if result.left_out:
        yield _table("Left out", [("what", "left"), ("why", "left")], [list(item) for item in result.left_out.items()])


def _table(title: str, columns: list[tuple[str, Any]], rows: list[list[str]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for header, justify in columns:
        table.add_column(header, justify=justify, overflow="fold", no_wrap=header != "why")
    for row in rows:
        if row:
            table.add_row(*map(escape, row), style="bold" if OURS in row[:2] else "")
        else:
            table.add_section()
    return table


def _cases(title: str, cases: list[Case]) -> Table:
    headers = ["time", "quartiles", "ns/element", "GB/s", "of the limit", "of the best peer"]
    rows: list[list[str]] = []
    for case in cases:
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
    return _table(title, [("case", "left"), ("", "left"), *((header, "right") for header in headers)], rows)


def _fresh(result: Result) -> Table:
    rows = [
        [
            name,
            time_text(found["seconds"]),
            f"{found['extra']:.1f}" if "extra" in found else "",
            f"{found['peak'] / 1e6:.0f}" if "peak" in found else "",
        ]
        for name, found in result.fresh.items()
    ]
    headers = ["import and first step", "extra bytes an element in a step", "peak of the process, MB"]
    return _table("In a fresh process, after importing NumPy", [("", "left"), *((h, "right") for h in headers)], rows)


def _scaling(result: Result) -> Table:
    names = list(result.scaling[0]["seconds"])
    rows = [
        [found["name"], str(found["threads"]), *(time_text(found["seconds"][name]) for name in names)]
        for found in result.scaling
    ]
    return _table("Scaling over threads", [("n", "left"), ("threads", "right"), *((n, "right") for n in names)], rows)


def _default_threads(result: Result) -> Table:
    rows = [
        [
            found["name"],
            found["between"],
            time_text(found["default"]),
            *map(time_text, found["seconds"].values()),
            f"{found['of_best']:.2f}",
        ]
        for found in result.default_threads
    ]
    counts = [f"threads={count}" for count in result.default_threads[0]["seconds"]]
    columns = [("n", "left"), ("between steps", "left"), *((h, "right") for h in ("default", *counts, "of the best"))]
    return _table("The default number of threads", columns, rows)


def _targets(targets: list[Target]) -> Table:
    rows = [[t.what, f"{t.value:.3g}", f"{t.most:.3g}", "reached" if t.is_reached else "missed"] for t in targets]
    return _table("Targets", [("", "left"), ("measured", "right"), ("at most", "right"), ("", "left")], rows)


def markdown_loops(loops: list[Loop]) -> str:
    """Return a table of loops that have the same ways to take their steps."""
    heads = [f"{way} (x default)" if way != DEFAULT else way for way in loops[0].ways]
    lines = [
        "| an iteration: producer + step | " + " | ".join(heads) + " | default, of the best |",
        "| --- " * (len(heads) + 2) + "|",
    ]
    for loop in loops:
        cells = []
        for name, way in loop.ways.items():
            ratio = "" if name == DEFAULT else f" ({way.of_default[1]:.2f} x)"
            cells.append(f"{time_text(way.whole[1])} = {time_text(way.producer)} + {time_text(way.step)}{ratio}")
        low, median, high = loop.ways[DEFAULT].of_best
        lines.append(f"| {loop.name} | " + " | ".join(cells) + f" | {median:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join(lines)


def plot(result: Result, path: Path) -> None:
    """Draw time over n with the limits, and bars for the models.

    Raises OSError and ValueError where matplotlib cannot write that file.
    """
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("agg")
    arrays = [case for case in result.cases if case.kind == "array"]
    models = [case for case in result.cases if case.kind == "model"]
    shown = [peer.name for peer in PEERS if any(peer.name in case.rows for case in result.cases)]
    palette = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    colors = {name: "black" if name == OURS else palette[index % 20] for index, name in enumerate(shown)}

    columns = min(3, len(models)) or 1
    model_rows = -(-len(models) // columns)
    bar_height = 0.2 * len(shown) + 0.8
    figure = Figure(figsize=(13, 7 + bar_height * model_rows), layout="constrained")
    grid = figure.add_gridspec(1 + model_rows, columns, height_ratios=[7, *[bar_height] * model_rows])
    machine = result.machine
    figure.suptitle(f"One step of RMSprop, float32, on {machine['processor']}, {machine['threads']} threads")

    axes = figure.add_subplot(grid[0, :])
    sizes = [case.elements for case in arrays]
    for name in shown:
        points = [(case.elements, case.rows[name].seconds[1]) for case in arrays if name in case.rows]
        style: dict[str, Any] = {"linewidth": 3, "zorder": 3} if name == OURS else {"linewidth": 1.3, "marker": "."}
        label = f"{name} (not RMSprop: the same bytes)" if name == ADAGRAD else name
        if points:
            axes.plot(*zip(*points, strict=True), color=colors[name], label=label, **style)
    compute = [min(case.compute_limit.values()) for case in arrays]
    memory = [min(case.memory_limit.values()) for case in arrays]
    axes.plot(sizes, compute, "--", color="tab:red", label="limit: a division and a root for each element")
    axes.plot(sizes, memory, ":", color="tab:blue", linewidth=2, label="limit: reading p, g, s and writing p, s")
    floor = [case.limit for case in arrays]
    axes.fill_between(sizes, floor, min(floor, default=1) / 3, color="0.9", label="faster than this processor can")
    axes.set(xscale="log", yscale="log", xlabel="n, elements of one array", ylabel="time of one step (lower is better)")
    axes.set_xticks(sizes, [size_name(size) for size in sizes], rotation=45)
    ticks = [10.0**power for power in range(-8, 2)]
    axes.set_yticks(ticks, map(time_text, ticks))
    axes.minorticks_off()
    low, high = min(floor, default=1), max((r.seconds[1] for case in arrays for r in case.rows.values()), default=1)
    axes.set(xlim=(min(sizes, default=1) / 1.2, max(sizes, default=1) * 1.2), ylim=(low / 2, high * 2))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper left")

    names = [name for name in reversed(shown) if any(name in case.rows for case in models)]
    for index, case in enumerate(models):
        bars = figure.add_subplot(grid[1 + index // columns, index % columns])
        rows = [case.rows.get(name) for name in names]
        seconds = [row.seconds[1] if row else case.limit / 2 for row in rows]
        drawn = bars.barh(names, seconds, color=[colors[name] for name in names])
        labels = [
            "" if row is None else time_text(row.seconds[1]) + ("" if name == OURS else f" ({row.of_ours[1]:.1f} x)")
            for name, row in zip(names, rows, strict=True)
        ]
        bars.bar_label(drawn, labels, fontsize="small", padding=3)
        bars.axvline(case.limit, color="tab:red", linestyle="--", linewidth=1)
        bars.set(xscale="log", xlim=(case.limit / 2, max(seconds) * 25))
        bars.set_title(f"{case.name}\n{case.leaves:,} arrays, {case.elements:,} elements", fontsize="medium")
        bars.tick_params(axis="y", labelsize="small", labelleft=index % columns == 0)
        bars.set_xticks([], [])
        bars.minorticks_off()
    figure.savefig(path, dpi=110)
