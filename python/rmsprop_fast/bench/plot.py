"""What was measured, as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmsprop_fast.bench.peers import ADAGRAD, OURS, PEERS
from rmsprop_fast.bench.problems import size_name
from rmsprop_fast.bench.timings import time_text

if TYPE_CHECKING:
    from pathlib import Path

    from rmsprop_fast.bench.suite import Result


def plot(result: Result, path: Path) -> None:
    """Draw time over n with the limits, and bars for the models and for the training loops.

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

    columns = 3
    model_rows, loop_rows = -(-len(models) // columns), -(-len(result.loops) // columns)
    ways = max((len(loop.ways) for loop in result.loops), default=0)
    heights = [7, *[0.2 * len(shown) + 0.8] * model_rows, *[0.2 * ways + 0.8] * loop_rows]
    figure = Figure(figsize=(13, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
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

    for index, loop in enumerate(result.loops):
        bars = figure.add_subplot(grid[1 + model_rows + index // columns, index % columns])
        names = list(reversed(loop.ways))
        gradients, step = zip(*(loop.ways[name].parts for name in names), strict=True)
        bars.barh(names, gradients, color="0.8")
        drawn = bars.barh(
            names, step, left=gradients, color=["black" if "threads" in name else "0.5" for name in names]
        )
        bars.bar_label(drawn, [time_text(loop.ways[name].whole[1]) for name in names], fontsize="small", padding=3)
        bars.margins(x=0.3)
        bars.set_title(f"{loop.name}\ngradients, then step (dark)", fontsize="medium")
        bars.tick_params(axis="y", labelsize="small")
        bars.set_xticks([], [])
    figure.savefig(path, dpi=110)
