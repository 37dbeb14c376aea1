"""Shapes of the parameters of whole models, as data."""

from __future__ import annotations

from itertools import pairwise

Shape = tuple[int, ...]


def mlp_policy() -> list[Shape]:
    """Return those of stable-baselines3's MlpPolicy on CartPole: actor and critic, two layers of 64 each."""
    layers = [(64, 4), (64, 64)] * 2 + [(2, 64), (1, 64)]
    return [shape for layer in layers for shape in (layer, layer[:1])]


def mobilenet_v2(width: float = 0.35, classes: int = 1000) -> list[Shape]:
    """Return those of M. Sandler et al., "MobileNetV2", CVPR 2018, table 2; channels are multiples of 8."""

    def channels(count: int) -> int:
        wanted = count * width
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * wanted else rounded

    def convolution(inside: int, outside: int, size: int = 1) -> list[Shape]:
        return [(outside, inside, size, size), (outside,), (outside,)]  # and its batch norm

    # expansion, channels and repetitions
    blocks = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    expansions = [expansion for expansion, _, repetitions in blocks for _ in range(repetitions)]
    widths = [channels(32), *(channels(count) for _, count, repetitions in blocks for _ in range(repetitions))]
    shapes = convolution(3, widths[0], 3)
    for expansion, (inside, outside) in zip(expansions, pairwise(widths), strict=True):
        hidden = inside * expansion
        shapes += convolution(inside, hidden) if expansion > 1 else []
        shapes += convolution(1, hidden, 3) + convolution(hidden, outside)
    return [*shapes, *convolution(widths[-1], 1280), (classes, 1280), (classes,)]


def gpt2_small() -> list[Shape]:
    """Return those of A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019: 12 layers."""
    width = 768
    norm: list[Shape] = [(width,), (width,)]
    layers = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    attend, project, expand, contract = ([shape, shape[1:]] for shape in layers)
    block = norm + attend + project + norm + expand + contract
    return [(50257, width), (1024, width), *(block * 12), *norm]


MODELS = {
    "MLP policy": mlp_policy(),
    "MobileNetV2 0.35": mobilenet_v2(),
    "GPT-2 small": gpt2_small(),
}
