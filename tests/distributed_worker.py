"""What each process of test_torch_distributed.py runs (torchrun distributed_worker.py STAGE FOLDER), and the trainings.

A process writes the result of every scenario to FOLDER/STAGE-PROCESSES/SCENARIO-RANK.pt as soon as it is known.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from rmsprop_fast.torch import RMSprop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed.optim import ZeroRedundancyOptimizer

Options: TypeAlias = dict[str, Any]
Optimizer: TypeAlias = torch.optim.Optimizer
Scenarios: TypeAlias = "Iterator[tuple[str, Any]]"

TIME_LIMIT = 120  # seconds for all of a process; it takes about 15
STEPS, HALF = 12, 6
ROWS = 12  # of each batch: so many that 2 and 3 processes get equal shares


class Case(NamedTuple):
    options: Options
    dtype: torch.dtype


CASES = {
    "momentum-float64": Case({"momentum": 0.9, "weight_decay": 0.01}, torch.float64),
    "centered-float32": Case({"momentum": 0.5, "centered": True}, torch.float32),
    "max_grad_norm-float32": Case({"momentum": 0.9, "max_grad_norm": 1.4}, torch.float32),
    "all-float64": Case({"momentum": 0.5, "centered": True, "weight_decay": 0.01, "max_grad_norm": 1.4}, torch.float64),
}


def without_norm(case: Case) -> Case:
    """Return a case for optimizers that leave it to `train` to clip the norm."""
    return case._replace(options={key: value for key, value in case.options.items() if key != "max_grad_norm"})


class Trained(NamedTuple):
    """The parameters, and the norm of the gradient before it was clipped (or 0), after each step."""

    positions: Tensor
    norms: Tensor


def build(case: Case, seed: int = 0) -> nn.Sequential:
    """Return a model with odd sizes: of 2 or 3 processes, some get less than others of a parameter, or nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 1)]
    return nn.Sequential(*layers).to(case.dtype)


def groups(module: nn.Module) -> list[dict[str, Any]]:
    params = list(module.parameters())
    return [
        {"params": [param for param in params if param.ndim > 1], "lr": 1e-3},
        {"params": [param for param in params if param.ndim == 1], "lr": 3e-4, "alpha": 0.9, "weight_decay": 0},
    ]


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def flat(module: nn.Module) -> Tensor:
    return torch.cat([full(param.detach()).flatten() for param in module.parameters()])


def backward(module: nn.Module, step: int) -> None:
    """Leave the gradient of this step's batch, of which each process sees its share of the rows."""
    dtype = next(module.parameters()).dtype
    rows = torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64).to(dtype)
    targets = rows.sum(dim=1, keepdim=True).sin()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    loss: Tensor = (module(rows[rank::processes]) - targets[rank::processes]).square().mean()
    torch.autograd.backward(loss)


def clip_norm(module: nn.Module, most: float) -> float:
    """Clip as torch.nn.utils.clip_grad_norm_, which adds 1e-6 to the norm; return the norm."""
    norm = nn.utils.get_total_norm([param.grad for param in module.parameters() if param.grad is not None])
    nn.utils.clip_grads_with_norm_(module.parameters(), most, norm - 1e-6)
    return float(norm)


def train(module: nn.Module, optimizer: Optimizer, steps: range, clip: float | None = None) -> Trained:
    positions, norms = [], []
    for step in steps:
        optimizer.zero_grad()
        backward(module, step)
        norm = 0.0 if clip is None else clip_norm(module, clip)
        optimizer.step()
        positions.append(flat(module))
        norms.append(getattr(optimizer, "grad_norm", None) or norm)
    return Trained(torch.stack(positions), torch.tensor(norms))


def joined(*parts: Trained) -> Trained:
    return Trained(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def save(module: nn.Module, optimizer: Optimizer, folder: Path, *, flat: bool = False) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, state = get_state_dict(module, optimizer, options=options)
    state_dict_saver.save({"model": model, "optimizer": state}, checkpoint_id=folder)


def load(module: nn.Module, optimizer: Optimizer, folder: Path, *, flat: bool = False, partly: bool = False) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, state = get_state_dict(module, optimizer, options=options)
    planner = DefaultLoadPlanner(allow_partial_load=partly)
    state_dict_loader.load({"model": model, "optimizer": state}, checkpoint_id=folder, planner=planner)
    set_state_dict(module, optimizer, model_state_dict=model, optim_state_dict=state, options=options)


def load_of_torch(module: nn.Module, optimizer: Optimizer, folder: Path, case: Case, *, flat: bool = False) -> None:
    """Load what torch.optim.RMSprop has left, which has neither a variance nor options of ours."""
    load(module, optimizer, folder, flat=flat, partly="centered" in case.options)
    for group in optimizer.param_groups:
        group |= {key: value for key, value in case.options.items() if key not in group}


def mesh_of_all() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def sharded(case: Case, seed: int = 0) -> tuple[nn.Module, RMSprop]:
    module = build(case, seed)
    mesh = mesh_of_all()
    for layer in module:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module, RMSprop(groups(module), **case.options)


def ddp(case: Case) -> Scenarios:
    for as_view in (False, True):
        module = DistributedDataParallel(build(case), gradient_as_bucket_view=as_view)
        yield f"ddp-{as_view}", train(module, RMSprop(groups(module), **case.options), range(STEPS))


class Words(nn.Module):
    """Looks up tokens, which it makes of its input, in a table with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.table = nn.EmbeddingBag(40, 3, mode="sum", sparse=True)
            self.linear = nn.Linear(3, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """Return one number for each row."""
        numbers: Tensor = self.linear(self.table((rows * 100).long() % 40))
        return numbers


LAZY = ("rows", "dense", "catch_up")


def sparse(lazy: str) -> tuple[nn.Module, RMSprop]:
    module = Words()
    return module, RMSprop(module.parameters(), lr=1e-2, lazy=lazy, max_grad_norm=1.0, rowwise=lazy == "rows")


def ddp_sparse() -> Scenarios:
    for lazy in LAZY:
        module, optimizer = sparse(lazy)
        yield f"ddp-sparse-{lazy}", train(DistributedDataParallel(module), optimizer, range(STEPS))


def train_on_all_rows(module: nn.Module, optimizer: RMSprop) -> Trained:
    """Give every process the whole batch, and so the same gradients."""
    positions, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        rows = torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(step))
        torch.autograd.backward(module(rows).square().sum())
        optimizer.step()
        positions.append(flat(module))
        norms.append(optimizer.grad_norm)
    return Trained(torch.stack(positions), torch.tensor(norms))


def fsdp_beside_sparse() -> Scenarios:
    """Shard the dense parameters alone: the norm is that of their shards, and of what is sparse and not sharded."""
    module, optimizer = sparse("catch_up")
    fully_shard(module.linear, mesh=mesh_of_all())  # type: ignore[arg-type]
    optimizer = RMSprop(module.parameters(), **optimizer.defaults)
    yield "fsdp-beside-sparse", train_on_all_rows(module, optimizer)


def zero(module: nn.Module, case: Case, *, as_view: bool) -> ZeroRedundancyOptimizer:
    from torch.distributed.optim import ZeroRedundancyOptimizer  # which warns: an error in the process of pytest

    return ZeroRedundancyOptimizer(
        groups(module), optimizer_class=RMSprop, parameters_as_bucket_view=as_view, **without_norm(case).options
    )


def zero_saved(case: Case, file: Path) -> Scenarios:
    for as_view in (False, True):
        module = DistributedDataParallel(build(case))
        optimizer = zero(module, case, as_view=as_view)
        clip = case.options.get("max_grad_norm")
        before = train(module, optimizer, range(HALF), clip)
        optimizer.consolidate_state_dict(to=0)
        if dist.get_rank() == 0:
            torch.save((module.module.state_dict(), optimizer.state_dict()), file)
        yield f"zero-{as_view}", joined(before, train(module, optimizer, range(HALF, STEPS), clip))


def zero_resumed(case: Case, file: Path, writer: str) -> Scenarios:
    for as_view in (False, True):
        module = DistributedDataParallel(build(case, seed=1))
        model, state = torch.load(file)
        module.module.load_state_dict(model)
        optimizer = zero(module, case, as_view=as_view)
        optimizer.load_state_dict(state)
        yield (
            f"zero-{as_view}-from-{writer}",
            train(module, optimizer, range(HALF, STEPS), case.options.get("max_grad_norm")),
        )


def fsdp_saved(case: Case, folder: Path) -> Scenarios:
    module, optimizer = sharded(case)
    before = train(module, optimizer, range(HALF))
    save(module, optimizer, folder)
    yield "fsdp", joined(before, train(module, optimizer, range(HALF, STEPS)))


def fsdp_resumed(case: Case, folder: Path, writer: str) -> Scenarios:
    if writer == "torch":
        module, optimizer = sharded(without_norm(case), seed=1)
        load_of_torch(module, optimizer, folder, case)
    else:
        module, optimizer = sharded(case, seed=1)
        load(module, optimizer, folder)
    yield f"fsdp-from-{writer}", train(module, optimizer, range(HALF, STEPS))


class Skipped(NamedTuple):
    positions: Tensor
    unchanged: bool
    skipped: int
    empty_shards: int


# What gets into the gradient, and options: the last has a square that overflows, but for clipping.
POISONS: dict[str, Options] = {"inf": {}, "nan": {"max_grad_norm": 1e3}, "1e30": {}}


def local_bytes(module: nn.Module, optimizer: Optimizer) -> list[bytes]:
    tensors = [*module.parameters(), *(kept for state in optimizer.state.values() for kept in state.values())]
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return [tensor.detach().clone().numpy().tobytes() for tensor in local]


def skipping(poison: str) -> Scenarios:
    """Half-way, have a step in which one number of one shard of the gradient is not finite."""
    case = CASES["centered-float32"]
    module, optimizer = sharded(case._replace(options=case.options | POISONS[poison] | {"skip_nonfinite": True}))
    before = train(module, optimizer, range(HALF))
    bytes_before = local_bytes(module, optimizer)
    backward(module, STEPS)
    if dist.get_rank() == dist.get_world_size() - 1:
        grad = next(module.parameters()).grad
        assert isinstance(grad, DTensor)
        grad.to_local()[-1, -1] = float(poison)
    optimizer.step()
    unchanged = local_bytes(module, optimizer) == bytes_before
    after = train(module, optimizer, range(HALF, STEPS))
    empty = [param.to_local().numel() == 0 for param in module.parameters() if isinstance(param, DTensor)]
    yield f"skipping-{poison}", Skipped(joined(before, after).positions, unchanged, optimizer.skipped, sum(empty))


class Given(NamedTuple):
    """Parameters and state after each step with gradients that were given, and the norm of these."""

    positions: Tensor
    square_avgs: Tensor
    norms: Tensor


class GivenCase(NamedTuple):
    dtype: torch.dtype
    scale: float  # of the gradients


GIVEN_CASES = {
    "float32": GivenCase(torch.float32, 1),
    "float32-large": GivenCase(torch.float32, 1e25),  # has squares that float32 has no number for
    "bfloat16": GivenCase(torch.bfloat16, 1),
    "float16": GivenCase(torch.float16, 2e4),  # has a norm that float16 has no number for
}
GIVEN_OPTIONS: Options = {"lr": 1e-2, "alpha": 0.9, "momentum": 0.9, "max_grad_norm": 1.0}
GIVEN_STEPS = 5

# Those of a parameter and of its gradient: on a mesh of one dimension, on one of two, and no DTensor at all.
Placements: TypeAlias = tuple[Placement, ...]
PLACEMENTS: list[tuple[Placements, Placements]] = [
    *(
        ((of_param,), (of_grad,))
        for of_param in (Shard(0), Shard(1), Replicate())
        for of_grad in (Shard(0), Shard(1), Replicate(), Partial())
    ),
    ((Replicate(), Shard(0)), (Replicate(), Shard(1))),
    ((), ()),
]


def given(case: GivenCase) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Return one parameter for each pair of placements, and gradients for each step."""
    random = torch.Generator().manual_seed(0)

    def some(scale: float) -> list[Tensor]:
        return [(scale * torch.randn(5, 3, generator=random)).to(case.dtype) for _ in PLACEMENTS]

    return some(1), [some(case.scale) for _ in range(GIVEN_STEPS)]


def placed(case: GivenCase) -> Scenarios:
    """Train with gradients whose placements differ from those of their parameters."""
    processes = dist.get_world_size()
    meshes = {1: mesh_of_all(), 2: init_device_mesh("cpu", (1, processes))}

    def distributed(tensor: Tensor, placements: Placements) -> Tensor:
        if not placements:
            return tensor.clone()
        mesh = meshes[len(placements)]
        if isinstance(placements[0], Partial):  # halves, whose sum needs no rounding
            return DTensor.from_local(tensor / processes, mesh, placements)
        return distribute_tensor(tensor, mesh, placements)

    start, gradients = given(case)
    params = [
        nn.Parameter(distributed(tensor, of_param)) for tensor, (of_param, _) in zip(start, PLACEMENTS, strict=True)
    ]
    optimizer = RMSprop(params, **GIVEN_OPTIONS)
    positions, square_avgs, norms = [], [], []
    for grads in gradients:
        for param, grad, (_, of_grad) in zip(params, grads, PLACEMENTS, strict=True):
            param.grad = distributed(grad, of_grad)
        optimizer.step()
        positions.append(torch.stack([full(param.detach()) for param in params]))
        square_avgs.append(torch.stack([full(optimizer.state[param]["square_avg"]) for param in params]))
        norms.append(optimizer.grad_norm)
    yield "placed", Given(torch.stack(positions), torch.stack(square_avgs), torch.tensor(norms, dtype=torch.float64))


def first(folder: Path) -> Scenarios:
    for name, case in CASES.items():
        for scenarios in (
            ddp(case),
            zero_saved(case, folder / f"zero-{name}.pt"),
            zero_resumed(case, folder / f"torch-{name}.pt", "torch"),
            fsdp_saved(case, folder / f"fsdp-{name}"),
            fsdp_resumed(case, folder / f"one-{name}", "one"),
            fsdp_resumed(case, folder / f"torch-dcp-{name}", "torch"),
        ):
            for scenario, result in scenarios:
                yield f"{scenario}-{name}", result
    yield from ddp_sparse()
    yield from fsdp_beside_sparse()
    for poison in POISONS:
        yield from skipping(poison)
    for name, given_case in GIVEN_CASES.items():
        for scenario, result in placed(given_case):
            yield f"{scenario}-{name}", result


def second(folder: Path) -> Scenarios:
    """Go on, in new processes, with what two processes have left."""
    for name, case in CASES.items():
        for scenarios in (
            zero_resumed(case, folder / f"zero-{name}.pt", "two"),
            fsdp_resumed(case, folder / f"fsdp-{name}", "two"),
        ):
            for scenario, result in scenarios:
                yield f"{scenario}-{name}", result


def main(stage: str, folder: Path) -> None:
    faulthandler.enable()
    faulthandler.dump_traceback_later(TIME_LIMIT, exit=True)
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIME_LIMIT / 2))
    results = folder / f"{stage}-{dist.get_world_size()}"
    results.mkdir(exist_ok=True)
    for scenario, result in {"first": first, "second": second}[stage](folder):
        torch.save(tuple(result), results / f"{scenario}-{dist.get_rank()}.pt")
    dist.destroy_process_group()
    # The threads of gloo live on while anything still knows the group, and let go of tensors after the last collective.
    # A thread that asks for the interpreter when it is being torn down ends the process by SIGABRT.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
