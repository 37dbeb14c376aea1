"""Whole models against what PyTorch has, and the README's table: pytest -s benchmarks/test_models.py"""

from __future__ import annotations

import math
from timeit import Timer
from typing import Any

import pytest
import torch

from require import require
from rmsprop_fast.bench.models import Shape, gpt2_small, mlp_policy, mobilenet_v2
from rmsprop_fast.bench.timings import Timings
from rmsprop_fast.torch import RMSprop

MODELS = {"MLP policy": mlp_policy(), "MobileNetV2 0.35": mobilenet_v2(), "GPT-2 small": gpt2_small()}

LR = 1e-9  # so that parameters stay where they are

# How many times faster than each form of RMSprop and than Adagrad(fused=True), and with clipping by the norm than
# clip_grad_norm_ and each form.
TARGETS = {"MLP policy": (8, 3, 10), "MobileNetV2 0.35": (5, 2, 6), "GPT-2 small": (4, 0.95, 4)}

OURS, CLIPPED = "rmsprop_fast", "rmsprop_fast, max_grad_norm"
FORMS = {"RMSprop, for loop": False, "RMSprop, foreach": True}
ADAGRAD = "Adagrad(fused=True)"
THREADS = (1, 2)


def clip_and_step(params: list[Any], optimizer: Any) -> None:
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()


def timers(shapes: list[Shape]) -> dict[str, Timer]:
    """Return a step by each optimizer, all on the same parameters and gradients, each with a state of its own."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape) / 10) for shape in shapes]
    for param in params:
        param.grad = torch.randn_like(param) / 10
    steps: dict[str, Any] = {
        OURS: RMSprop(params, lr=LR).step,
        ADAGRAD: torch.optim.Adagrad(params, lr=LR, fused=True).step,
        CLIPPED: RMSprop(params, lr=LR, max_grad_norm=1.0).step,
    }
    for form, foreach in FORMS.items():
        optimizer = torch.optim.RMSprop(params, lr=LR, foreach=foreach)
        steps[form] = optimizer.step
        steps[f"clip_grad_norm_, {form}"] = lambda optimizer=optimizer: clip_and_step(params, optimizer)
    return {name: Timer(step) for name, step in steps.items()}


@pytest.fixture(scope="module")
def timings() -> dict[tuple[str, int], Timings]:
    measured = {}
    before = torch.get_num_threads()
    for model, shapes in MODELS.items():
        is_large = sum(math.prod(shape) for shape in shapes) > 2**24
        for threads in THREADS:
            torch.set_num_threads(threads)
            measured[model, threads] = Timings()
            for _ in range(3 if is_large else 5):  # memory falls better or worse
                measured[model, threads].measure(timers(shapes), rounds=5 if is_large else 15, seconds=0.005)
    torch.set_num_threads(before)
    print("\n\n" + table(measured))
    return measured


def table(measured: dict[tuple[str, int], Timings]) -> str:
    sizes = {name: (len(shapes), sum(math.prod(shape) for shape in shapes)) for name, shapes in MODELS.items()}
    heads = [f"{name}: {count} tensors, {elements:,} elements" for name, (count, elements) in sizes.items()]
    lines = ["| one step, 1 and 2 threads | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    for name in (OURS, *FORMS, ADAGRAD, CLIPPED, *(f"clip_grad_norm_, {form}" for form in FORMS)):
        base = CLIPPED if "clip" in name else OURS
        cells = []
        for model in MODELS:
            both = [measured[model, threads] for threads in THREADS]
            times = [timing.median(name) * 1e6 for timing in both]
            unit, factor = ("us", 1.0) if times[0] < 1e3 else ("ms", 1e-3)
            cell = " and ".join(f"{time * factor:.3g}" for time in times) + f" {unit}"
            ratios = " and ".join(f"{timing.ratio(name, base)[1]:.2f}" for timing in both)
            cells.append(cell if name == base else f"{cell} ({ratios} x)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


cases = pytest.mark.parametrize(("model", "threads"), [(model, threads) for model in TARGETS for threads in THREADS])


@cases
@pytest.mark.parametrize("form", FORMS)
def test_step(timings: dict[tuple[str, int], Timings], model: str, threads: int, form: str) -> None:
    require(f"{model}, {threads} threads, of {form}", timings[model, threads].ratio(OURS, form), 1 / TARGETS[model][0])


@cases
def test_fused(timings: dict[tuple[str, int], Timings], model: str, threads: int) -> None:
    ratio = timings[model, threads].ratio(OURS, ADAGRAD)
    require(f"{model}, {threads} threads, of {ADAGRAD}", ratio, 1 / TARGETS[model][1])


@cases
@pytest.mark.parametrize("form", FORMS)
def test_clipped_step(timings: dict[tuple[str, int], Timings], model: str, threads: int, form: str) -> None:
    peer = f"clip_grad_norm_, {form}"
    require(
        f"{model}, {threads} threads, of {peer}", timings[model, threads].ratio(CLIPPED, peer), 1 / TARGETS[model][2]
    )
