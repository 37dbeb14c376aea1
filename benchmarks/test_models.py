"""Whole models against what PyTorch has, and the README's table: pytest -s benchmarks/test_models.py"""

from __future__ import annotations

import math
from timeit import Timer
from typing import Any

import pytest
import torch

import models
from interleaved import Timings, require
from rmsprop_fast.torch import RMSprop

LR = 1e-9  # so that parameters stay where they are

# How many times faster than each form of RMSprop and than Adagrad(fused=True), and with clipping by the norm than
# clip_grad_norm_ and each form.
TARGETS = {"MLP policy": (8, 3, 10), "MobileNetV2 0.35": (5, 2, 6), "GPT-2 small": (4, 0.95, 4)}

OURS, CLIPPED = "rmsprop_fast", "rmsprop_fast, max_grad_norm"
FORMS = {"RMSprop, for loop": False, "RMSprop, foreach": True}
ADAGRAD = "Adagrad(fused=True)"


def clip_and_step(params: list[Any], optimizer: Any) -> None:
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()


def timers(shapes: list[models.Shape]) -> dict[str, Timer]:
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


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("model", models.MODELS)
def test_model(model: str, threads: int) -> None:
    shapes = models.MODELS[model]
    elements = sum(math.prod(shape) for shape in shapes)
    timing = Timings()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        large = elements > 2**24
        for _ in range(2 if large else 5):
            timing.measure(timers(shapes), rounds=5 if large else 15, seconds=0.005)
    finally:
        torch.set_num_threads(before)

    print(f"\n\n{model}: {len(shapes)} tensors, {elements / 1e6:.3g} M parameters, {threads} threads")
    for name in timing.rounds:
        base = CLIPPED if "clip" in name else OURS
        low, middle, high = timing.ratio(name, base)
        time = timing.median(name) * 1e6
        print(f"{name:40s} {time:10.1f} us  {middle:6.2f} x {base} (quartiles {low:.2f} to {high:.2f})")
    rmsprop, adagrad, clipped = TARGETS[model]
    for form in FORMS:
        require(f"{model}, of {form}", timing.ratio(OURS, form), 1 / rmsprop)
        require(
            f"{model}, of clip_grad_norm_ and {form}", timing.ratio(CLIPPED, f"clip_grad_norm_, {form}"), 1 / clipped
        )
    require(f"{model}, of {ADAGRAD}", timing.ratio(OURS, ADAGRAD), 1 / adagrad)
