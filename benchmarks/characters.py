"""Predict the next character of a text with sparse and with dense gradients: python benchmarks/characters.py

A linear model of hashed contexts: the last 1, 2, ... 5 characters together have a row each in a table, with a score for
each character that may come next. A batch of 256 places touches some hundred of the 131,072 rows. The text comes with
Python, as pydoc_data.topics: places are drawn from its first nine tenths, and the loss is that of the last tenth, in
bits a character.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import statistics
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import rmsprop_fast as rf

ROWS, ORDERS, BATCH = 2**17, 5, 256
LR = 0.003
WAYS: dict[str, dict[str, Any]] = {
    "a dense gradient": {},
    "Rows, `lazy='dense'`": {"lazy": "dense"},
    "Rows, `lazy='catch_up'`": {"lazy": "catch_up"},
    "Rows, `lazy='rows'`": {"lazy": "rows"},
    "Rows, `lazy='rows'`, `rowwise=True`": {"lazy": "rows", "rowwise": True},
}


class Text(NamedTuple):
    """The rows of each context, (places, ORDERS), and the number of the character that follows."""

    contexts: NDArray[np.int64]
    following: NDArray[np.int64]
    characters: int


def read_text() -> Text:
    """Hash each context of 1 to ORDERS characters to a row."""
    text = "".join(pydoc_data.topics.topics.values())
    characters, numbers = np.unique(list(text), return_inverse=True)
    windows = np.lib.stride_tricks.sliding_window_view(numbers, ORDERS)[:-1].astype(np.uint64)
    contexts = np.empty(windows.shape, np.int64)
    state = np.zeros(len(windows), np.uint64)
    for order in range(1, ORDERS + 1):
        state = (state + windows[:, -order] + np.uint64(order)) * np.uint64(0x9E3779B97F4A7C15)
        contexts[:, order - 1] = (state >> np.uint64(40)) % np.uint64(ROWS)
    return Text(contexts, numbers[ORDERS:], len(characters))


def errors(table: NDArray[np.float32], contexts: NDArray[np.int64], following: NDArray[np.int64]) -> tuple[Any, float]:
    """Return the gradient of the loss in the scores, and the loss in bits."""
    scores = table[contexts].sum(axis=1)
    scores -= scores.max(axis=1, keepdims=True)
    chances = np.exp(scores)
    chances /= chances.sum(axis=1, keepdims=True)
    places = np.arange(len(following))
    bits = -float(np.log2(chances[places, following]).mean())
    chances[places, following] -= 1
    return chances, bits


class Run(NamedTuple):
    """What it took until the loss was reached."""

    steps: int
    in_steps: float  # seconds
    total: float
    bits: float


def train(text: Text, way: str, *, bits: float, seed: int, most_steps: int) -> Run:
    """Train until the loss on the last tenth of the text is at most so many bits a character."""
    table = np.zeros((ROWS, text.characters), np.float32)
    state = rf.init(table, lr=LR, **WAYS[way])
    dense = np.zeros_like(table) if not WAYS[way] else None
    random = np.random.default_rng(seed)
    last = len(text.following) * 9 // 10
    in_steps = 0.0
    started = time.perf_counter()
    for step in range(1, most_steps + 1):
        places = random.integers(0, last, BATCH)
        rows = text.contexts[places]
        gradient, _ = errors(table, rows, text.following[places])
        values = np.repeat(gradient, ORDERS, axis=0)
        step_started = time.perf_counter()
        if dense is None:
            rf.step(table, rf.Rows(rows.ravel(), values), state)
        else:
            np.add.at(dense, rows.ravel(), values)
            rf.step(table, dense, state)
            dense[rows.ravel()] = 0
        in_steps += time.perf_counter() - step_started
        if step % 100 == 0 or step == most_steps:
            total = time.perf_counter() - started
            loss = errors(table, text.contexts[last:], text.following[last:])[1]
            if loss <= bits:
                break
            started = time.perf_counter() - total  # as if nobody had looked at the loss
    return Run(step, in_steps, total, loss)


def main() -> None:
    """Train in all ways, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bits", type=float, default=1.82, help="loss that ends the training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most-steps", type=int, default=10_000)
    options = parser.parse_args()
    text = read_text()
    print(f"{ROWS:,} x {text.characters} float32, {len(text.following):,} characters, until {options.bits} bits\n")
    print("| gradient | steps | seconds in steps | seconds in all | bits |\n| --- | --- | --- | --- | --- |")
    for way in WAYS:
        runs = [
            train(text, way, bits=options.bits, seed=seed, most_steps=options.most_steps)
            for seed in range(options.seeds)
        ]
        steps, in_steps, total, bits = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {way} | {steps:,.0f} | {in_steps:.2f} | {total:.2f} | {bits:.3f} |", flush=True)


if __name__ == "__main__":
    main()
