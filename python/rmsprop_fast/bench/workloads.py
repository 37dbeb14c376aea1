"""The loops that `loops` times: each computes gradients as its users do, with a library that has threads of its own.

A process runs one of them, so that no other library's threads are there: what a workload needs, it imports itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from rmsprop_fast.bench.peers import ADAGRAD, FOREACH, LOOP, OURS, OURS_TORCH, OUT

if TYPE_CHECKING:
    from rmsprop_fast.bench.steps import Array, Problem

Gradients = Callable[["Problem", int], float]  # have the problem's gradients be those of a batch; return its loss

PIXELS, CLASSES, BATCH = 784, 10, 128
BATCHES = 16


def _examples(batch: int) -> list[tuple[Array, Any]]:
    """Return batches of images, and their classes by a linear rule."""
    generator = np.random.default_rng(0)
    rule = generator.standard_normal((PIXELS, CLASSES), np.float32)
    images = [generator.standard_normal((batch, PIXELS), np.float32) / np.float32(4) for _ in range(BATCHES)]
    return [(x, (x @ rule).argmax(1)) for x in images]


def _layers(width: int) -> list[Array]:
    """Return the weights and biases of an MLP with two hidden layers."""
    generator = np.random.default_rng(1)
    widths = [PIXELS, width, width, CLASSES]
    params = []
    for inside, outside in pairwise(widths):
        scale = np.float32(np.sqrt(2 / inside))
        params += [generator.standard_normal((inside, outside), np.float32) * scale, np.zeros(outside, np.float32)]
    return params


def numpy_mlp(width: int) -> tuple[list[Array], Gradients]:
    """Matmuls on OpenBLAS's threads."""
    batches = _examples(BATCH)

    def gradients(problem: Problem, batch: int) -> float:
        x, y = batches[batch % BATCHES]
        w1, b1, w2, b2, w3, b3 = problem.params
        h1 = np.maximum(x @ w1 + b1, 0)
        h2 = np.maximum(h1 @ w2 + b2, 0)
        scores = h2 @ w3 + b3
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        rows = np.arange(BATCH)
        loss = -np.log(p[rows, y]).mean()
        p[rows, y] -= 1
        d3 = p / np.float32(BATCH)
        d2 = (d3 @ w3.T) * (h2 > 0)
        d1 = (d2 @ w2.T) * (h1 > 0)
        problem.grads[:] = [x.T @ d1, d1.sum(0), h1.T @ d2, d2.sum(0), h2.T @ d3, d3.sum(0)]
        return float(loss)

    return _layers(width), gradients


def torch_mlp(width: int) -> tuple[list[Array], Gradients]:
    """Autograd on PyTorch's threads, which are OpenMP's."""
    import torch
    from torch.nn.functional import cross_entropy, linear

    batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in _examples(BATCH)]

    def gradients(problem: Problem, batch: int) -> float:
        x, y = batches[batch % BATCHES]
        w1, b1, w2, b2, w3, b3 = problem.tensors
        for param in problem.tensors:
            param.grad = None
        h1 = linear(x, w1, b1).relu()
        h2 = linear(h1, w2, b2).relu()
        loss = cross_entropy(linear(h2, w3, b3), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    return [np.ascontiguousarray(param.T) for param in _layers(width)], gradients


def numba_denoising(size: int) -> tuple[list[Array], Gradients]:
    """Parallel loops of numba: an image is to be near a noisy one, and smooth."""
    import numba

    half, strength, prange = np.float32(0.5), np.float32(1), numba.prange
    noisy = np.random.default_rng(0).standard_normal((size, size), np.float32)

    @numba.njit(parallel=True)
    def gradient(u: Any, g: Any) -> Any:
        loss = 0.0
        for i in prange(size):
            above, below = max(i - 1, 0), min(i + 1, size - 1)
            for j in range(size):
                left, right = max(j - 1, 0), min(j + 1, size - 1)
                distance = u[i, j] - noisy[i, j]
                bend = 4 * u[i, j] - u[above, j] - u[below, j] - u[i, left] - u[i, right]
                g[i, j] = distance + strength * bend
                loss += half * (distance * distance + strength * u[i, j] * bend)
        return loss

    return [noisy.copy()], lambda problem, _: float(gradient(problem.params[0], problem.grads[0]))


def kmeans(centers: int, batch: int) -> tuple[list[Array], Gradients]:
    """Mini-batch k-means by gradients.

    scikit-learn finds the nearest centers, in an OpenMP pool of its own: its wheel brings a libgomp that only it uses.
    """
    from scipy import sparse
    from sklearn.metrics import pairwise_distances_argmin_min

    batches = [x for x, _ in _examples(batch)]
    columns, ones = np.arange(batch), np.ones(batch, np.float32)

    def gradients(problem: Problem, batch: int) -> float:
        x = batches[batch % BATCHES]
        (c,), (g,) = problem.params, problem.grads
        nearest, distances = pairwise_distances_argmin_min(x, c, metric="sqeuclidean")
        counts = np.bincount(nearest, minlength=centers).astype(np.float32)
        np.multiply(counts[:, None], c, out=g)
        np.subtract(g, sparse.csr_array((ones, (nearest, columns)), shape=(centers, len(x))) @ x, out=g)
        return float(distances.sum())

    return [np.random.default_rng(1).standard_normal((centers, PIXELS), np.float32)], gradients


@dataclass(frozen=True)
class Workload:
    """What computes the gradients, and who takes the steps: ours, and the peers that it is compared with."""

    name: str
    prepare: Callable[[], tuple[list[Array], Gradients]]  # parameters to start from, and their gradients
    ours: str = OURS
    peers: tuple[str, ...] = (OUT,)
    packages: tuple[str, ...] = ()


def _torch(width: int) -> Workload:
    name = f"PyTorch MLP, {width} wide"
    return Workload(name, partial(torch_mlp, width), OURS_TORCH, (LOOP, FOREACH, ADAGRAD), ("torch",))


WORKLOADS = [
    *(Workload(f"NumPy MLP, {width} wide", partial(numpy_mlp, width)) for width in (64, 1024, 2048)),
    Workload("numba denoising", partial(numba_denoising, 1024), packages=("numba",)),
    Workload("scikit-learn k-means", partial(kmeans, 1024, 256), packages=("sklearn", "scipy")),
    *map(_torch, (64, 1024, 4096)),
]
