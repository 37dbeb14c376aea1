"""What compact state and compact parameters do to the loss: python benchmarks/compact.py

Three small networks, written in NumPy, learn from real data that comes with scikit-learn and Python: how diabetes
progresses, which digit was written by hand, and which character comes next. All formats start from the same weights,
which are bfloat16 numbers for all of them, and see the same batches at the same learning rates, which fall in a line to
zero. Forward and backward passes are float32, from the parameters as they are; gradients are in the parameters' type.

Reported is the loss on the whole training set, the mean of four looks at it in the last tenth of the training, as a
multiple of that of float32 with the same seed: the geometric mean over the seeds, and where that of more seeds would be
with 95 % confidence, by Student's t.
"""

from __future__ import annotations

import argparse
import math
import pydoc_data.topics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import t as student
from sklearn.datasets import load_diabetes, load_digits
from threadpoolctl import threadpool_limits

import rmsprop_fast as rf
from rmsprop_fast.console import at_least, require_folder

Array = NDArray[Any]
Weights = dict[str, Array]
# Returns the loss of some examples, and what computes the gradients when they are wanted, too.
Forward = Callable[[Weights, Any], tuple[float, Callable[[], Weights]]]

RHOS = (0.9, 0.99, 0.999)
LOOKS = 4


class Format(NamedTuple):
    """How parameters are kept, the options of `rf.init` that say how the state is, and how the picture shows it."""

    name: str
    dtype: Any
    options: dict[str, Any]
    color: str = "black"

    @property
    def bytes(self) -> int:
        """Of an element of the parameters and of what the state has for it."""
        state = {None: 4, "bfloat16": 2, "uint8": 1}[self.options.get("state_dtype")]
        return int(np.dtype(self.dtype).itemsize + self.options.get("low_bits", 0) // 8 + state)

    @property
    def marker(self) -> str:
        return "o" if self.options.get("rounding") == "stochastic" else "s"


STOCHASTIC = {"rounding": "stochastic"}
BFLOAT16 = ml_dtypes.bfloat16
FORMATS = [
    Format("float32", np.float32, {}),
    Format("bfloat16 state, nearest", np.float32, {"state_dtype": "bfloat16"}, "#0072B2"),
    Format("bfloat16 state, stochastic", np.float32, {"state_dtype": "bfloat16", **STOCHASTIC}, "#0072B2"),
    Format("uint8 state, nearest", np.float32, {"state_dtype": "uint8"}, "#D55E00"),
    Format("uint8 state, stochastic", np.float32, {"state_dtype": "uint8", **STOCHASTIC}, "#D55E00"),
    Format("bfloat16 parameters, nearest", BFLOAT16, {}, "#009E73"),
    Format("bfloat16 parameters, stochastic", BFLOAT16, STOCHASTIC, "#009E73"),
    Format("bfloat16 parameters, 8 low bits", BFLOAT16, {"low_bits": 8}, "#CC79A7"),
    Format("bfloat16 parameters, 16 low bits", BFLOAT16, {"low_bits": 16}, "#CC79A7"),
    Format("all compact", BFLOAT16, {"low_bits": 8, "state_dtype": "uint8", **STOCHASTIC}),
]


class Task(NamedTuple):
    """A network, its examples, and how it is trained."""

    name: str
    shapes: dict[str, tuple[int, ...]]
    forward: Forward
    examples: int
    batch: int
    steps: int
    lr: dict[float, float]  # for each rho: without bias correction the first steps are 1 / sqrt(1 - rho) times lr


def cross_entropy(scores: Array, labels: Array) -> tuple[float, Callable[[], Array]]:
    """Return the loss, and what computes its gradient in the scores."""
    places = np.arange(len(labels))
    scores = scores - scores.max(axis=1, keepdims=True)
    chances = np.exp(scores)
    sums = chances.sum(axis=1)
    loss = float((np.log(sums) - scores[places, labels]).mean(dtype=np.float64))

    def backward() -> Array:
        gradient: Array = chances / sums[:, None]
        gradient[places, labels] -= 1
        gradient /= len(labels)
        return gradient

    return loss, backward


def regression() -> Task:
    """How diabetes has progressed after a year, from ten measurements: a layer of 4 and one output."""
    features, target = (values.astype(np.float32) for values in load_diabetes(return_X_y=True))
    features /= features.std(axis=0)
    target = (target - target.mean()) / target.std()

    def forward(w: Weights, chosen: Any) -> tuple[float, Callable[[], Weights]]:
        x = features[chosen]
        hidden = np.tanh(x @ w["w1"] + w["b1"])
        error = hidden @ w["w2"] + w["b2"] - target[chosen]

        def backward() -> Weights:
            d_output = error * np.float32(2 / len(error))
            d_hidden = np.outer(d_output, w["w2"]) * (1 - hidden**2)
            return {
                "w1": x.T @ d_hidden,
                "b1": d_hidden.sum(axis=0),
                "w2": hidden.T @ d_output,
                "b2": d_output.sum(keepdims=True),
            }

        return float(np.square(error).mean(dtype=np.float64)), backward

    shapes = {"w1": (10, 4), "b1": (4,), "w2": (4,), "b2": (1,)}
    lr = {0.9: 0.01, 0.99: 0.01, 0.999: 0.01}
    return Task("diabetes", shapes, forward, len(target), batch=32, steps=2500, lr=lr)


def patches(images: Array) -> Array:
    """Put the 3 x 3 pixels around each inner pixel side by side: (n, h, w, c) becomes (n, h - 2, w - 2, 9 c)."""
    _, height, width, _ = images.shape
    return np.concatenate(
        [images[:, i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)], axis=3
    )


def images_of(d_patches: Array) -> Array:
    """Return the gradient in the images, from that in their patches: each pixel adds up what it is in."""
    n, height, width, nine_c = d_patches.shape
    c = nine_c // 9
    images = np.zeros((n, height + 2, width + 2, c), d_patches.dtype)
    for k in range(9):
        i, j = divmod(k, 3)
        images[:, i : height + i, j : width + j] += d_patches[..., k * c : (k + 1) * c]
    return images


def digits() -> Task:
    """Which digit was written, from 8 x 8 pixels: two convolutions, 3 x 3 to 8 and to 16 channels, and 10 outputs."""
    pixels, labels = load_digits(return_X_y=True)
    first = patches((pixels / 16).astype(np.float32).reshape(-1, 8, 8, 1))

    def forward(w: Weights, chosen: Any) -> tuple[float, Callable[[], Weights]]:
        x = first[chosen]
        map1 = np.maximum(x @ w["w1"] + w["b1"], 0)
        second = patches(map1)
        map2 = np.maximum(second @ w["w2"] + w["b2"], 0)
        flat = map2.reshape(len(x), -1)
        loss, errors = cross_entropy(flat @ w["w3"] + w["b3"], labels[chosen])

        def backward() -> Weights:
            d_scores = errors()
            d_map2 = (d_scores @ w["w3"].T).reshape(map2.shape) * (map2 > 0)
            d_map1 = images_of(d_map2 @ w["w2"].T) * (map1 > 0)
            flat1, flat2 = d_map1.reshape(-1, 8), d_map2.reshape(-1, 16)
            return {
                "w1": x.reshape(-1, 9).T @ flat1,
                "b1": flat1.sum(axis=0),
                "w2": second.reshape(-1, 72).T @ flat2,
                "b2": flat2.sum(axis=0),
                "w3": flat.T @ d_scores,
                "b3": d_scores.sum(axis=0),
            }

        return loss, backward

    shapes = {"w1": (9, 8), "b1": (8,), "w2": (72, 16), "b2": (16,), "w3": (256, 10), "b3": (10,)}
    lr = {0.9: 0.005, 0.99: 0.003, 0.999: 0.001}
    return Task("digits", shapes, forward, len(labels), batch=32, steps=500, lr=lr)


def characters() -> Task:
    """Which character follows the last six, in Python's own help: 12 numbers a character, a layer of 64, the scores."""
    window, text = 6, "".join(pydoc_data.topics.topics.values())[:8192]
    alphabet, numbers = np.unique(list(text), return_inverse=True)
    contexts, following = np.lib.stride_tricks.sliding_window_view(numbers, window)[:-1], numbers[window:]

    def forward(w: Weights, chosen: Any) -> tuple[float, Callable[[], Weights]]:
        context = contexts[chosen]
        x = w["embedding"][context].reshape(len(context), -1)
        hidden = np.tanh(x @ w["w1"] + w["b1"])
        loss, errors = cross_entropy(hidden @ w["w2"] + w["b2"], following[chosen])

        def backward() -> Weights:
            d_scores = errors()
            d_hidden = d_scores @ w["w2"].T * (1 - hidden**2)
            d_embedding = np.zeros_like(w["embedding"])
            np.add.at(d_embedding, context, (d_hidden @ w["w1"].T).reshape(*context.shape, -1))
            return {
                "embedding": d_embedding,
                "w1": x.T @ d_hidden,
                "b1": d_hidden.sum(axis=0),
                "w2": hidden.T @ d_scores,
                "b2": d_scores.sum(axis=0),
            }

        return loss, backward

    shapes = {
        "embedding": (len(alphabet), 12),
        "w1": (12 * window, 64),
        "b1": (64,),
        "w2": (64, len(alphabet)),
        "b2": (len(alphabet),),
    }
    lr = {0.9: 0.01, 0.99: 0.01, 0.999: 0.005}
    return Task("characters", shapes, forward, len(following), batch=64, steps=2000, lr=lr)


def start(task: Task, random: np.random.Generator) -> Weights:
    """Return random weights, and biases of 0. All of them are bfloat16 numbers, so no format starts elsewhere."""
    weights = {}
    for name, shape in task.shapes.items():
        size = 0.0 if name[0] == "b" else 1.0 if name == "embedding" else shape[0] ** -0.5
        weights[name] = (size * random.standard_normal(shape)).astype(BFLOAT16)
    return weights


def converted(arrays: Weights, dtype: Any) -> Weights:
    return {name: values.astype(dtype, copy=False) for name, values in arrays.items()}


def train(task: Task, rho: float, chosen: Format, seed: int) -> float:
    """Return the loss, the mean of all looks at it."""
    random = np.random.default_rng(seed)
    params = converted(start(task, random), chosen.dtype)
    state = rf.init(params, lr=task.lr[rho], rho=rho, **chosen.options)
    looks = {task.steps - look * (task.steps // (10 * LOOKS)) for look in range(LOOKS)}
    losses = []
    for step in range(task.steps):
        _, backward = task.forward(converted(params, np.float32), random.integers(0, task.examples, task.batch))
        state.lr = task.lr[rho] * (1 - step / task.steps)
        rf.step(params, converted(backward(), chosen.dtype), state)
        if step + 1 in looks:
            losses.append(task.forward(converted(params, np.float32), slice(None))[0])
    return sum(losses) / len(losses)


def mean_and_deviation(values: Array) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1))


class Ratio(NamedTuple):
    """A mean over seeds, and from where to where it would be with more of them, with 95 % confidence."""

    low: float
    mean: float
    high: float


def ratio(losses: Array, of: Array) -> Ratio:
    """Compare seed by seed. Logarithms are averaged, so that half and double cancel out."""
    mean, deviation = mean_and_deviation(np.log(losses / of))
    half = float(student.ppf(0.975, len(losses) - 1)) * deviation / math.sqrt(len(losses))
    return Ratio(*(float(np.exp(mean + part * half)) for part in (-1, 0, 1)))


def differs(found: Ratio) -> bool:
    return not found.low <= 1 <= found.high


Losses = dict[tuple[str, float], dict[str, Array]]  # of each task and rho: of each format: of each seed


def measure(tasks: list[Task], seeds: int, console: Console) -> Losses:
    settings = [(task, rho, chosen) for task in tasks for rho in RHOS for chosen in FORMATS]
    losses: Losses = {}
    for task, rho, chosen in track(settings, "training", console=console, transient=True):
        values = np.array([train(task, rho, chosen, seed) for seed in range(seeds)])
        losses.setdefault((task.name, rho), {})[chosen.name] = values
    return losses


def table_of(tasks: list[Task], losses: Losses, seeds: int) -> Table:
    compared = len(losses) * (len(FORMATS) - 1)
    caption = (
        f"float32: its loss, mean of {seeds} seeds ± standard deviation. The others: their loss divided by that, "
        "mean and its 95 % interval. * marks an interval without 1: "
        f"of {compared} about {compared / 20:.0f} would be marked if formats did not matter. "
        "bytes: of a parameter, its low bits and its state, without the byte that up to 128 elements of uint8 share."
    )
    title = "What compact formats do to the loss of the whole training set"
    table = Table(title=title, caption=caption, caption_justify="left")
    table.add_column("task")
    table.add_column("format", no_wrap=True)
    table.add_column("bytes", justify="right")
    for rho in RHOS:
        table.add_column(f"rho = {rho}")
    for task in tasks:
        for chosen in FORMATS:
            cells = []
            for rho in RHOS:
                of_format = losses[task.name, rho]
                if chosen is FORMATS[0]:
                    cells.append("{:.4f} ± {:.4f}".format(*mean_and_deviation(of_format[chosen.name])))
                else:
                    found = ratio(of_format[chosen.name], of_format[FORMATS[0].name])
                    cells.append("{1:.4f} ({0:.4f} to {2:.4f})".format(*found) + " *" * differs(found))
            is_first, is_last = chosen is FORMATS[0], chosen is FORMATS[-1]
            table.add_row(task.name * is_first, chosen.name, str(chosen.bytes), *cells, end_section=is_last)
    return table


def plot(tasks: list[Task], losses: Losses, seeds: int, path: Path) -> None:
    """Draw a panel for each task and rho, in it the ratios of all formats."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("agg")
    others = FORMATS[1:]
    figure = Figure(figsize=(10, 9), dpi=100, layout="constrained")
    figure.suptitle(f"Loss in the end, beside that of float32: mean of {seeds} seeds and its 95 % interval")
    ticks = [-10, -1, 0, 1, 10, 100]
    panels: Any = figure.subplots(len(tasks), len(RHOS), sharex=True, sharey=True)
    panels[0, 0].set_xscale("symlog", linthresh=1, linscale=1.5)
    for row, task in zip(panels, tasks, strict=True):
        for axes, rho in zip(row, RHOS, strict=True):
            of_format = losses[task.name, rho]
            for place, chosen in enumerate(others):
                found = ratio(of_format[chosen.name], of_format[FORMATS[0].name])
                low, mean, high = (100 * (value - 1) for value in found)
                axes.plot([low, high], [place, place], color=chosen.color)
                face = chosen.color if differs(found) else "white"
                axes.plot(mean, place, chosen.marker, color=chosen.color, markerfacecolor=face)
            axes.axvline(0, color="0.5", linewidth=1, zorder=0)
            mean, deviation = mean_and_deviation(of_format[FORMATS[0].name])
            title = f"{task.name}, rho = {rho}\nfloat32: {mean:.4f} ± {deviation:.4f}"
            axes.set_title(title, fontsize="medium")
            axes.grid(axis="x", alpha=0.3)
            axes.tick_params(labelbottom=True, labelsize="small")
    axes.set(yticks=range(len(others)), yticklabels=[chosen.name for chosen in others])
    axes.invert_yaxis()
    axes.set(xticks=ticks, xticklabels=[f"{tick:+}" if tick else "0" for tick in ticks])
    figure.supxlabel(
        "how much the loss exceeds that of float32, in %; from 1 % on the axis is logarithmic\n"
        "circles: stochastic rounding; filled: the interval is without 0",
        fontsize="medium",
    )
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=at_least(2), default=5)
    parser.add_argument("--steps-factor", type=float, default=1.0, help="train so many times as long")
    parser.add_argument("--plot", type=Path, help="a picture of it, too")
    options = parser.parse_args()
    require_folder("--plot", options.plot)
    tasks = [
        task._replace(steps=max(10 * LOOKS, round(task.steps * options.steps_factor)))
        for task in (regression(), digits(), characters())
    ]
    console = Console(width=None if sys.stdout.isatty() else 150)
    rf.set_num_threads(1)
    started = time.perf_counter()
    with threadpool_limits(1):  # NumPy's products of such small matrices are fastest so
        losses = measure(tasks, options.seeds, Console(stderr=True))
    seconds = time.perf_counter() - started
    console.print(table_of(tasks, losses, options.seeds))
    trainings = len(losses) * len(FORMATS) * options.seeds
    console.print(f"{trainings} trainings in {seconds:.0f} s")
    if options.plot:
        plot(tasks, losses, options.seeds, options.plot)


if __name__ == "__main__":
    main()
