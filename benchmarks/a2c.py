"""What the optimizer costs of a whole training, stable-baselines3's A2C on CartPole: python benchmarks/a2c.py

The optimizer's share is the time within its `step`. Clipping by the norm, which A2C does before each step with
clip_grad_norm_, is not counted there, but in the whole.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any, NamedTuple

import torch
from stable_baselines3 import A2C

from rmsprop_fast.torch import RMSprop

CANDIDATES: dict[str, tuple[Any, dict[str, Any]]] = {
    "torch.optim.RMSprop": (torch.optim.RMSprop, {}),
    "torch.optim.RMSprop, foreach=True": (torch.optim.RMSprop, {"foreach": True}),
    "rmsprop_fast.torch.RMSprop": (RMSprop, {}),
}


class Run(NamedTuple):
    """Seconds of a training, those of them in the optimizer, and how many steps it took."""

    whole: float
    optimizer: float
    steps: int


def run(optimizer_class: Any, options: dict[str, Any], timesteps: int) -> Run:
    policy = {
        "optimizer_class": optimizer_class,
        "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5, "weight_decay": 0, **options},  # A2C's own, for RMSprop
    }
    learner = A2C("MlpPolicy", "CartPole-v1", policy_kwargs=policy, seed=0, device="cpu")
    optimizer: Any = learner.policy.optimizer
    step, seconds = optimizer.step, []

    def timed_step() -> None:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)

    optimizer.step = timed_step
    start = time.perf_counter()
    learner.learn(timesteps)
    return Run(time.perf_counter() - start, sum(seconds), len(seconds))


def figure(values: list[float], unit: str) -> str:
    """Return the median, and from where to where all are."""
    return f"{statistics.median(values):.3g} {unit} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=20_000, help="of CartPole, 5 for each update (20000)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="rounds, in each of which every optimizer trains once (5)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    for candidate in CANDIDATES.values():
        run(*candidate, timesteps=500)  # what is loaded and allocated once
    runs: dict[str, list[Run]] = {name: [] for name in CANDIDATES}
    for _ in range(arguments.repeats):  # in turn, so that all see the same noise
        for name, candidate in CANDIDATES.items():
            runs[name].append(run(*candidate, timesteps=arguments.timesteps))

    print(
        f"A2C, CartPole-v1, {arguments.timesteps} timesteps, {arguments.threads} thread(s), torch {torch.__version__}; "
        f"medians of {arguments.repeats} runs (and all between)\n"
    )
    print("| optimizer | whole training | in `step` | one `step` | share of the whole |")
    print("| --- | --- | --- | --- | --- |")
    for name, measured in runs.items():
        cells = [
            figure([one.whole for one in measured], "s"),
            figure([one.optimizer for one in measured], "s"),
            figure([one.optimizer / one.steps * 1e6 for one in measured], "us"),
            figure([one.optimizer / one.whole * 100 for one in measured], "%"),
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
