"""How RMSprop for PyTorch is called: with closures, hooks and a profiler, compiled, with threads."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from marks import has_openmp, linux
from processes import run

torch = pytest.importorskip("torch")

from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from rmsprop_fast.torch import RMSprop  # noqa: E402
from torch_params import Tensor, parameter  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor as TorchTensor


# --- Closures, hooks, the profiler -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hooked", [False, True])
def test_a_closure_is_evaluated_once_with_gradients_before_the_step(hooked: bool) -> None:
    param = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = RMSprop([param], lr=0.1, alpha=0.0, eps=0.0)
    if hooked:
        optimizer.register_step_post_hook(lambda *_: None)
    seen = []

    def closure() -> TorchTensor:
        assert torch.is_grad_enabled()
        seen.append(param.tolist())
        optimizer.zero_grad()
        loss: TorchTensor = (3 * param).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)  # mypy knows that it is what the closure returns
    assert loss.item() == -3
    assert seen == [[1, -2]]
    assert param.tolist() == pytest.approx([0.9, -2.1])  # with alpha=0, a step is lr * g / |g|
    number = optimizer.step(lambda: 2.5)
    assert number.hex() == (2.5).hex()


def classes() -> list[tuple[type[RMSprop], str]]:
    """Return RMSprop and subclasses that leave `step` as it is or override it: new ones, as torch changes them."""

    class Plain(RMSprop):
        pass

    class Overriding(RMSprop):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    class Again(Overriding):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    return [(RMSprop, "RMSprop"), (Plain, "Plain"), (Overriding, "Overriding"), (Again, "Again")]


HOOKS = ["global pre", "own pre", "own post", "global post"]  # in the order that torch calls them in


@pytest.mark.parametrize("index", range(4), ids=["RMSprop", "subclass", "overriding", "overriding twice"])
@pytest.mark.parametrize("names", [*([name] for name in HOOKS), HOOKS], ids=", ".join)
def test_hooks_run_once_in_torchs_order(index: int, names: list[str]) -> None:
    cls, _ = classes()[index]
    param = parameter(3)
    optimizer = cls([param])
    calls: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: calls.append(f"{name} {float(optimizer.state[param].get('step', 0)):.0f}")

    hooks = {
        "global pre": register_optimizer_step_pre_hook,
        "own pre": optimizer.register_step_pre_hook,
        "own post": optimizer.register_step_post_hook,
        "global post": register_optimizer_step_post_hook,
    }
    assert list(hooks) == HOOKS
    with ExitStack() as stack:
        for name in names:
            stack.callback(hooks[name](note(name)).remove)
        optimizer.step()
    assert calls == [f"{name} {0 if name.endswith('pre') else 1}" for name in names]
    optimizer.step()
    assert len(calls) == len(names)  # they are gone


def test_a_pre_hook_may_change_the_arguments() -> None:
    optimizer = RMSprop([parameter(3)])
    optimizer.register_step_pre_hook(lambda self, args, kwargs: ((self, lambda: 7.0), {}))
    assert optimizer.step() == 7.0


@pytest.mark.parametrize("index", range(3), ids=["RMSprop", "subclass", "overriding"])
def test_the_profiler_sees_each_step_once(index: int) -> None:
    cls, name = classes()[index]
    optimizer = cls([parameter(3)])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
        optimizer.step()
    seen = [event.name for event in profile.events() if event.name.startswith("Optimizer.step")]
    assert seen == [f"Optimizer.step#{name}.step"] * 2


# --- Compiling and threads -------------------------------------------------------------------------------------------


# PyTorch's own, when it traces code that sets gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_training_step_goes_where_others_go() -> None:
    inputs = torch.randn(4, 3)

    def trained(optimizer_class: Any, compiled: Callable[[Any], Any]) -> list[Tensor]:
        torch.manual_seed(1)
        model = torch.nn.Linear(3, 2)
        optimizer = optimizer_class(model.parameters(), momentum=0.9)

        def train() -> None:
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()

        train = compiled(train)
        for _ in range(5):
            train()
        return [param.detach() for param in model.parameters()]

    torch._dynamo.reset()
    found = trained(RMSprop, lambda function: torch.compile(function, backend="eager"))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # something was compiled
    torch._dynamo.reset()
    for param, expected in zip(found, trained(torch.optim.RMSprop, lambda function: function), strict=True):
        torch.testing.assert_close(param, expected, rtol=2e-6, atol=2e-7)


@linux
@has_openmp
def test_a_step_uses_no_more_threads_than_torch_or_we_were_told() -> None:
    """Threads that have been started stay: what each number of threads adds is counted."""
    code = """
        import os, torch, rmsprop_fast as rf
        from rmsprop_fast.torch import RMSprop
        torch.set_num_threads(1)
        rf.set_num_threads(4)
        param = torch.zeros(10**6, requires_grad=True)
        param.grad = torch.ones(10**6)
        optimizer = RMSprop([param])
        for threads in (1, 2, 3, 9):
            torch.set_num_threads(threads)
            before = len(os.listdir("/proc/self/task"))
            for _ in range(3):
                optimizer.step()
            print(len(os.listdir("/proc/self/task")) - before)
    """
    assert run(code).stdout.split() == ["0", "1", "1", "1"]
