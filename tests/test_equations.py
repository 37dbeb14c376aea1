"""The equations that are printed: run, as the code that they are, against the reference; and the command for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rmsprop_fast as rf
from family_cases import MOMENTUM, OTHERS, combinations
from rmsprop_fast.__main__ import main

NAMES = {"sqrt": np.sqrt, "sum": np.sum, "mean": np.mean, "clip": np.clip, "min": min}
ALL = combinations(MOMENTUM, [{}, {"centered": True}, {"rowwise": True}], *OTHERS[:-1])


@pytest.mark.parametrize("number", range(20))
def test_they_do_what_the_reference_does(number: int) -> None:
    """A sixth of all combinations, in 20 tests."""
    random = np.random.default_rng(0)
    for hyper in ALL[number::120]:
        p = random.standard_normal((10, 5))
        state = rf.init(p, **hyper)
        start, step = rf.equations(state).split("\n\n")
        names: dict[str, Any] = dict(NAMES)
        exec(start, names)
        names["p"] = p.copy()
        for t in range(1, 4):
            names["g"], names["t"] = random.standard_normal((10, 5)), t
            rf.reference.step(p, names["g"], state)
            exec(step, names)
            np.testing.assert_allclose(
                names["p"], p, rtol=1e-9, atol=1e-9 * np.abs(p).max(), err_msg=f"{hyper}\n{step}"
            )


def test_every_number_is_shown() -> None:
    text = rf.equations(rf.init(np.zeros(3), lr=0.25, rho=0.5, eps=2, momentum=0.75, weight_decay=0.1, clip_norm=8))
    assert text.splitlines()[0] == "lr, rho, eps, clip_norm, weight_decay, momentum = 0.25, 0.5, 2.0, 8.0, 0.1, 0.75"


def test_a_learning_rate_that_is_a_tree_has_no_value() -> None:
    text = rf.equations(rf.init([np.zeros(3)], lr=[np.ones(3)]))
    assert text.startswith("rho, eps = 0.999, 1e-08\n")
    with pytest.raises(TypeError, match=r"state: expected a rmsprop_fast\.State, got int"):
        rf.equations(3)  # type: ignore[arg-type]


def test_skipping_is_mentioned() -> None:
    assert "counts as skipped" in rf.equations(rf.init((), skip_nonfinite=True))
    assert "skipped" not in rf.equations(rf.init(()))


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["family", *arguments]) == 0
    return capsys.readouterr().out


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    own = "s = rho * s + (1 - rho) * g**2\nstep_size = lr / (sqrt(s) + eps)\np = p - step_size * g\n"
    assert shown(capsys).endswith(own)
    assert shown(capsys, "torch").endswith(own)
    assert "step_size = lr / sqrt(s + eps)\n" in shown(capsys, "keras")
    assert "s = 1.0\n" in shown(capsys, "timm")
    pytorch = shown(capsys, "torch", "momentum=0.9", "centered=True", "lr=0.5")
    assert pytorch.startswith("rmsprop_fast.init(params, lr=0.5, rho=0.99, ")
    assert "b = momentum * b + step_size * g\np = p - lr * b\n" in pytorch
    assert "g = -g\n" in shown(capsys, "maximize=True")
    for name in rf.presets.__all__:
        assert rf.equations(rf.init((), **getattr(rf.presets, name)())) in shown(capsys, name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nest"], "family: expected a preset among keras, mlx, optax, tf1, timm, torch, got 'nest'"),
        (
            ["torch", "nesterov=True"],
            "torch: expected options among lr, rho, eps, weight_decay, momentum, centered, maximize, got 'nesterov'",
        ),
        (["lr=1", "lr=2"], "lr: expected once, got 'lr=2' after another"),
        (["momentum=2"], "momentum: expected a number from 0 to 1, got 2"),
        (["keras", "lr"], "lr: expected NAME=VALUE, with a number, True, False or None, got 'lr'"),
        (["lr=fast"], "lr: expected NAME=VALUE, with a number, True, False or None, got 'lr=fast'"),
        (["nesterov=True"], "nesterov: expected momentum above 0 with nesterov=True, got momentum=0.0"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["family", *arguments]) == 2
    assert capsys.readouterr().err == f"rmsprop-fast: {message}\n"
