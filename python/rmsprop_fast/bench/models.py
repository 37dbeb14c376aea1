"""Shapes of the parameters of whole models, as data."""

from __future__ import annotations

from itertools import pairwise

Shape = tuple[int, ...]


def mlp_policy() -> list[Shape]:
    """Return those of stable-baselines3's MlpPolicy on CartPole: actor and critic, two layers of 64 each."""
    layers = [(64, 4), (64, 64)] * 2 + [(2, 64), (1, 64)]
    return [shape for layer in layers for shape in _with_bias(layer)]


def nature_dqn(actions: int = 18) -> list[Shape]:
    """Return those of V. Mnih et al., "Human-level control through deep reinforcement learning", Nature 518, 2015."""
    layers = [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 64 * 7 * 7), (actions, 512)]
    return [shape for layer in layers for shape in _with_bias(layer)]


def mobilenet_v2(width: float = 0.35, classes: int = 1000) -> list[Shape]:
    """Return those of M. Sandler et al., "MobileNetV2", CVPR 2018, table 2."""
    # expansion, channels and repetitions
    blocks = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    expansions = [expansion for expansion, _, repetitions in blocks for _ in range(repetitions)]
    channels = [count for _, count, repetitions in blocks for _ in range(repetitions)]
    widths = [_multiple_of_8(count * width) for count in (32, *channels)]
    shapes = _convolution(3, widths[0], 3)
    for expansion, (inside, outside) in zip(expansions, pairwise(widths), strict=True):
        hidden = inside * expansion
        shapes += _convolution(inside, hidden) if expansion > 1 else []
        shapes += _convolution(1, hidden, 3) + _convolution(hidden, outside)
    return [*shapes, *_convolution(widths[-1], 1280), *_with_bias((classes, 1280))]


def mobilenet_v3_large(classes: int = 1000) -> list[Shape]:
    """Return those of A. Howard et al., "Searching for MobileNetV3", ICCV 2019, table 1."""
    # kernel size, hidden channels, channels, whether it squeezes and excites
    blocks = [
        *[(3, 16, 16, False), (3, 64, 24, False), (3, 72, 24, False)],
        *[(5, 72, 40, True), (5, 120, 40, True), (5, 120, 40, True)],
        *[(3, 240, 80, False), (3, 200, 80, False), (3, 184, 80, False), (3, 184, 80, False)],
        *[(3, 480, 112, True), (3, 672, 112, True)],
        *[(5, 672, 160, True), (5, 960, 160, True), (5, 960, 160, True)],
    ]
    inside = 16
    shapes = _convolution(3, inside, 3)
    for size, hidden, outside, squeezes in blocks:
        shapes += _convolution(inside, hidden) if hidden != inside else []
        shapes += _convolution(1, hidden, size)
        if squeezes:
            squeezed = _multiple_of_8(hidden / 4)
            shapes += _with_bias((squeezed, hidden, 1, 1)) + _with_bias((hidden, squeezed, 1, 1))
        shapes += _convolution(hidden, outside)
        inside = outside
    return [*shapes, *_convolution(inside, 960), *_with_bias((1280, 960)), *_with_bias((classes, 1280))]


def resnet50(classes: int = 1000) -> list[Shape]:
    """Return those of K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1."""
    inside = 64
    shapes = _convolution(3, inside, 7)
    for width, repetitions in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(repetitions):
            outside = 4 * width
            shapes += _convolution(inside, width) + _convolution(width, width, 3) + _convolution(width, outside)
            shapes += _convolution(inside, outside) if block == 0 else []
            inside = outside
    return [*shapes, *_with_bias((classes, inside))]


def gpt2_small() -> list[Shape]:
    """Return those of A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019: 12 layers."""
    width = 768
    norm: list[Shape] = [(width,), (width,)]
    layers = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    attend, project, expand, contract = ([shape, shape[1:]] for shape in layers)
    block = norm + attend + project + norm + expand + contract
    return [(50257, width), (1024, width), *(block * 12), *norm]


def _with_bias(weight: Shape) -> list[Shape]:
    return [weight, weight[:1]]


def _convolution(inside: int, outside: int, size: int = 1) -> list[Shape]:
    """Return the weight of a convolution, and its batch norm's."""
    return [(outside, inside, size, size), (outside,), (outside,)]


def _multiple_of_8(count: float) -> int:
    """Return the number of channels that the MobileNets have instead: not less than 90 % of it."""
    rounded = max(8, int(count + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * count else rounded


MODELS: dict[str, list[Shape]] = {
    "MLP policy": mlp_policy(),
    "Nature DQN": nature_dqn(),
    "MobileNetV3-large": mobilenet_v3_large(),
    "ResNet-50": resnet50(),
    "GPT-2 small": gpt2_small(),
    "embedding, 1M x 64": [(1_000_000, 64)],
}
