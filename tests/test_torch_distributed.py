"""RMSprop under torch.distributed: processes on this machine go where one process goes with torch.optim.RMSprop."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tolerances import TOLERANCE, TOLERANCE_FLOAT64, difference

torch = pytest.importorskip("torch")
if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    pytest.skip("this build of torch has no torch.distributed with gloo", allow_module_level=True)

from torch.distributed.checkpoint.api import CheckpointException  # noqa: E402

import distributed_worker as worker  # noqa: E402
from rmsprop_fast.torch import RMSprop  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor, nn

# Checkpoints say so when one process alone saves and loads them.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")

TORCH, OURS = torch.optim.RMSprop, RMSprop

# Several processes sum up a gradient in another order than one. Measured are up to 6e-7 and 5e-16.
TOLERANCES = {"float32": TOLERANCE, "float64": TOLERANCE_FLOAT64}

HOLD_ON = 60  # seconds, after those in which a process ends itself


def optimizer_of(kind: Any, module: nn.Module, case: worker.Case) -> Any:
    options = worker.without_norm(case).options if kind is TORCH else case.options
    return kind(worker.groups(module), **options)


def clip_of(kind: Any, case: worker.Case) -> float | None:
    return case.options.get("max_grad_norm") if kind is TORCH else None


@functools.cache
def one_process(kind: Any, name: str) -> worker.Trained:
    case = worker.CASES[name]
    module = worker.build(case)
    return worker.train(module, optimizer_of(kind, module, case), range(worker.STEPS), clip_of(kind, case))


def distance(positions: Tensor, expected: Tensor, start: Tensor) -> float:
    """Return how far positions are from the last of those expected."""
    return difference(positions.numpy(), torch.cat([start[None], expected]).numpy())


def require_same_way(name: str, positions: Tensor) -> None:
    start = worker.flat(worker.build(worker.CASES[name]))
    for kind in (TORCH, OURS):
        expected = one_process(kind, name).positions
        assert distance(positions, expected, start) <= TOLERANCES[name.split("-")[1]]


def leave_checkpoints(folder: Path) -> None:
    """Leave what one process has half-way."""
    for name, case in worker.CASES.items():
        module = worker.build(case)
        optimizer = optimizer_of(TORCH, module, case)
        worker.train(module, optimizer, range(worker.HALF), clip_of(TORCH, case))
        torch.save((module.state_dict(), optimizer.state_dict()), folder / f"torch-{name}.pt")
        worker.save(module, optimizer, folder / f"torch-dcp-{name}")
        module = worker.build(case)
        optimizer = optimizer_of(OURS, module, case)
        worker.train(module, optimizer, range(worker.HALF))
        worker.save(module, optimizer, folder / f"one-{name}")


def launch(folder: Path, *launches: tuple[str, int]) -> None:
    """Run stages at the same time, each with so many processes; outputs go to files, which no process can block."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    running = []
    for stage, processes in launches:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
        command += [f"--nproc-per-node={processes}", worker.__file__, stage, str(folder)]
        with (folder / f"{stage}-{processes}.log").open("wb") as log:
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    for (stage, processes), process in zip(launches, running, strict=True):
        try:
            status: Any = process.wait(worker.TIME_LIMIT + HOLD_ON)
        except subprocess.TimeoutExpired:
            process.kill()
            status = "killed, as it took too long"
        (folder / f"{stage}-{processes}.status").write_text(str(status))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where all processes have left their results."""
    folder = tmp_path_factory.mktemp("distributed")
    leave_checkpoints(folder)
    launch(folder, ("first", 2))
    launch(folder, ("second", 2), ("second", 3))
    return folder


def output(folder: Path, launch: str) -> str:
    text = (folder / f"{launch}.log").read_text(errors="replace")
    return f"\ntorchrun, {launch}, status {(folder / f'{launch}.status').read_text()}:\n{text[-10_000:]}"


def results(folder: Path, launch: str, scenario: str) -> list[Any]:
    """Return the result of each process."""
    files = [folder / launch / f"{scenario}-{rank}.pt" for rank in range(int(launch.split("-")[1]))]
    if not all(file.exists() for file in files):
        pytest.fail(f"{scenario}: no result of all processes" + output(folder, launch))
    return [torch.load(file) for file in files]


def trained(folder: Path, launch: str, scenario: str) -> worker.Trained:
    found, *others = (worker.Trained(*result) for result in results(folder, launch, scenario))
    for other in others:
        assert torch.equal(other.positions, found.positions)
        assert torch.equal(other.norms, found.norms)
    return found


each_case = pytest.mark.parametrize("name", worker.CASES)
each_kind = pytest.mark.parametrize("kind", [TORCH, OURS], ids=["torch", "ours"])
each_view = pytest.mark.parametrize("as_view", [False, True])


@pytest.mark.parametrize("launch", ["first-2", "second-2", "second-3"])
def test_all_processes_come_to_their_end(folder: Path, launch: str) -> None:
    assert (folder / f"{launch}.status").read_text() == "0", output(folder, launch)


@pytest.mark.parametrize("lazy", worker.LAZY)
def test_ddp_with_sparse_gradients(folder: Path, lazy: str) -> None:
    positions = trained(folder, "first-2", f"ddp-sparse-{lazy}").positions
    expected = worker.train(*worker.sparse(lazy), range(worker.STEPS)).positions
    start = worker.flat(worker.Words())
    assert distance(positions, expected, start) <= TOLERANCES["float32"]
    assert not torch.equal(positions[-1], start)


def test_fsdp_beside_sparse_gradients(folder: Path) -> None:
    found = trained(folder, "first-2", "fsdp-beside-sparse")
    expected = worker.train_on_all_rows(*worker.sparse("catch_up"))
    assert distance(found.positions, expected.positions, worker.flat(worker.Words())) <= TOLERANCES["float32"]
    torch.testing.assert_close(found.norms, expected.norms, rtol=1e-5, atol=0)
    assert (found.norms > 1).any()  # some are clipped


@each_case
@each_view
def test_ddp(folder: Path, name: str, as_view: bool) -> None:
    require_same_way(name, trained(folder, "first-2", f"ddp-{as_view}-{name}").positions)


@each_case
@each_view
def test_zero(folder: Path, name: str, as_view: bool) -> None:
    require_same_way(name, trained(folder, "first-2", f"zero-{as_view}-{name}").positions)


@each_case
@each_view
@pytest.mark.parametrize(("writer", "launch"), [("torch", "first-2"), ("two", "second-2"), ("two", "second-3")])
def test_zero_goes_on(folder: Path, name: str, as_view: bool, writer: str, launch: str) -> None:
    """From the state dict of torch.optim.RMSprop in one process, and that which two processes have consolidated."""
    require_same_way(name, trained(folder, launch, f"zero-{as_view}-from-{writer}-{name}").positions)


@each_case
@each_kind
def test_one_process_goes_on_from_zero(folder: Path, name: str, kind: Any) -> None:
    trained(folder, "first-2", f"zero-True-{name}")
    case = worker.CASES[name]
    module = worker.build(case, seed=1)
    optimizer = optimizer_of(kind, module, worker.without_norm(case))
    model, state = torch.load(folder / f"zero-{name}.pt")
    module.load_state_dict(model)
    optimizer.load_state_dict(state)
    after = worker.train(module, optimizer, range(worker.HALF, worker.STEPS), case.options.get("max_grad_norm"))
    require_same_way(name, after.positions)


@each_case
def test_fsdp(folder: Path, name: str) -> None:
    found = trained(folder, "first-2", f"fsdp-{name}")
    require_same_way(name, found.positions)
    torch.testing.assert_close(found.norms, one_process(TORCH, name).norms, rtol=TOLERANCE, atol=0)


def test_the_norm_is_clipped_in_some_steps_only() -> None:
    norms = one_process(TORCH, "max_grad_norm-float32").norms
    most = worker.CASES["max_grad_norm-float32"].options["max_grad_norm"]
    assert 3 < (norms > most).sum() < worker.STEPS - 3


@each_case
@pytest.mark.parametrize(
    ("writer", "launch"), [("one", "first-2"), ("torch", "first-2"), ("two", "second-2"), ("two", "second-3")]
)
def test_fsdp_goes_on(folder: Path, name: str, writer: str, launch: str) -> None:
    """From the checkpoint of one process, also with torch.optim.RMSprop, into two; from that of two, into 2 and 3."""
    require_same_way(name, trained(folder, launch, f"fsdp-from-{writer}-{name}").positions)


@each_case
@each_kind
def test_one_process_goes_on_from_fsdp(folder: Path, name: str, kind: Any) -> None:
    trained(folder, "first-2", f"fsdp-{name}")
    case = worker.CASES[name]
    module = worker.build(case, seed=1)
    optimizer = optimizer_of(kind, module, case)
    worker.load(module, optimizer, folder / f"fsdp-{name}")
    after = worker.train(module, optimizer, range(worker.HALF, worker.STEPS), clip_of(kind, case))
    require_same_way(name, after.positions)


@each_case
@pytest.mark.parametrize("flat", [False, True], ids=["plain", "flat"])
@pytest.mark.parametrize("kinds", [(TORCH, OURS), (OURS, TORCH), (OURS, OURS)], ids=["to ours", "to torch", "ours"])
def test_distributed_checkpoints_without_processes(tmp_path: Path, kinds: Any, flat: bool, name: str) -> None:
    case = worker.CASES[name]
    writer, reader = kinds
    module = worker.build(case)
    optimizer = optimizer_of(writer, module, case)
    worker.train(module, optimizer, range(worker.HALF), clip_of(writer, case))
    worker.save(module, optimizer, tmp_path, flat=flat)
    module = worker.build(case, seed=1)
    if kinds == (TORCH, OURS):
        optimizer = optimizer_of(OURS, module, worker.without_norm(case))
        if flat and "centered" in case.options:
            with pytest.raises(CheckpointException, match=r"Missing key in checkpoint state_dict: .*\.variance"):
                worker.load(module, optimizer, tmp_path, flat=True)
            return
        worker.load_of_torch(module, optimizer, tmp_path, case, flat=flat)
    else:
        optimizer = optimizer_of(reader, module, case)
        worker.load(module, optimizer, tmp_path, flat=flat)
    after = worker.train(module, optimizer, range(worker.HALF, worker.STEPS), clip_of(reader, case))
    require_same_way(name, after.positions)


@pytest.mark.parametrize("poison", worker.POISONS)
def test_one_bad_shard_makes_all_processes_skip(folder: Path, poison: str) -> None:
    found = [worker.Skipped(*result) for result in results(folder, "first-2", f"skipping-{poison}")]
    assert [(result.unchanged, result.skipped) for result in found] == [(True, 1)] * 2
    assert found[1].empty_shards > found[0].empty_shards == 0  # a process skips all the same
    for result in found:
        require_same_way("centered-float32", result.positions)


def given_in_one_process(kind: Any, name: str) -> worker.Given:
    """Return what one process makes of the given gradients: ours, or torch's in float64, where nothing overflows."""
    case = worker.GIVEN_CASES[name]
    start, gradients = worker.given(case)
    params = [torch.nn.Parameter(tensor.double() if kind is TORCH else tensor) for tensor in start]
    options = dict(worker.GIVEN_OPTIONS)
    most = options.pop("max_grad_norm") if kind is TORCH else None
    optimizer = kind(params, **options)
    positions, square_avgs, norms = [], [], []
    for grads in gradients:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.to(param.dtype, copy=True)
        if most is not None:
            norms.append(float(torch.nn.utils.clip_grad_norm_(params, most)))
        optimizer.step()
        if most is None:
            norms.append(optimizer.grad_norm)
        for param in params:
            param.data.copy_(param.data.to(case.dtype))
        positions.append(torch.stack(params).detach())
        square_avgs.append(torch.stack([optimizer.state[param]["square_avg"] for param in params]))
    return worker.Given(torch.stack(positions), torch.stack(square_avgs), torch.tensor(norms, dtype=torch.float64))


@each_kind
@pytest.mark.parametrize("name", worker.GIVEN_CASES)
def test_gradients_in_other_placements_than_their_parameters(folder: Path, name: str, kind: Any) -> None:
    expected = worker.Given(*(tensor.double() for tensor in given_in_one_process(kind, name)))
    start, _ = worker.given(worker.GIVEN_CASES[name])
    for result in results(folder, "first-2", f"placed-{name}"):
        found = worker.Given(*(tensor.double() for tensor in result))
        torch.testing.assert_close(found.norms, expected.norms, rtol=TOLERANCE, atol=0)
        torch.testing.assert_close(found.square_avgs, expected.square_avgs, rtol=TOLERANCE, atol=0)
        # A half may be rounded the other way.
        rounding = torch.finfo(worker.GIVEN_CASES[name].dtype).eps
        assert distance(found.positions, expected.positions, torch.stack(start).double()) <= max(TOLERANCE, rounding)
