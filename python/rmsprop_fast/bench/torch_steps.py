"""A step by each of PyTorch's optimizers, and by ours for PyTorch, on the same memory as the others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from rmsprop_fast.bench.steps import HYPER, INITIAL_S, Problem, Step

if TYPE_CHECKING:
    from collections.abc import Callable


def _tensors(problem: Problem) -> list[Any]:
    import torch

    if not problem.tensors:
        problem.tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in problem.params]
        for param, grad in zip(problem.tensors, problem.grads, strict=True):
            param.grad = torch.from_numpy(grad)
    return problem.tensors


def _torch(problem: Problem, optimizer: Any, step: Callable[[], object]) -> Step:
    """Return a step by a torch optimizer, the running mean of which is moved to the arrays of the problem."""
    import torch

    (group,) = optimizer.param_groups
    before = [param.detach().clone() for param in group["params"]]
    optimizer.step()  # makes its state
    with torch.no_grad():
        for param, kept in zip(group["params"], before, strict=True):
            param.copy_(kept)
    for param, s in zip(group["params"], problem.s, strict=True):
        for name, value in optimizer.state[param].items():
            is_s = name in ("square_avg", "variance", "sum")
            value.fill_(INITIAL_S if is_s else 0)
            if is_s and not problem.options:
                optimizer.state[param][name] = torch.from_numpy(s)
    return Step("step()", {"step": step}, lambda: [param.detach().numpy() for param in group["params"]])


def _torch_rmsprop(problem: Problem, foreach: bool, compiled: bool = False) -> Step:
    import torch

    options = dict(problem.options)
    clip, skips = options.pop("clip_global_norm", None), options.pop("skip_nonfinite", False)
    params = _tensors(problem)
    optimizer = torch.optim.RMSprop(
        params, lr=HYPER["lr"], alpha=HYPER["rho"], eps=HYPER["eps"], foreach=foreach, **options
    )

    def clipped_step() -> None:
        norm = torch.nn.utils.clip_grad_norm_(params, clip)
        if not skips or norm.isfinite():
            optimizer.step()

    if compiled:
        torch._logging.set_logs(all=logging.ERROR)  # type: ignore[attr-defined]  # or it would talk about itself
        torch.compiler.reset()  # or it would give up after some problems
        return _torch(problem, optimizer, torch.compile(lambda: optimizer.step()))
    return _torch(problem, optimizer, clipped_step if clip else optimizer.step)


def torch_loop(problem: Problem) -> Step:
    return _torch_rmsprop(problem, foreach=False)


def torch_foreach(problem: Problem) -> Step:
    return _torch_rmsprop(problem, foreach=True)


def torch_compiled(problem: Problem) -> Step:
    return _torch_rmsprop(problem, foreach=True, compiled=True)


def torch_adagrad(problem: Problem) -> Step:
    import torch

    optimizer = torch.optim.Adagrad(_tensors(problem), lr=HYPER["lr"], eps=HYPER["eps"], fused=True)
    return _torch(problem, optimizer, optimizer.step)


def rmsprop_fast_torch(problem: Problem) -> Step:
    from rmsprop_fast.torch import RMSprop

    options = dict(problem.options)
    if "clip_global_norm" in options:
        options["max_grad_norm"] = options.pop("clip_global_norm")
    optimizer = RMSprop(_tensors(problem), lr=HYPER["lr"], alpha=HYPER["rho"], eps=HYPER["eps"], **options)
    return _torch(problem, optimizer, optimizer.step)
