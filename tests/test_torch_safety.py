"""What may happen to tensors while a step looks at them, and what a step must not leave behind."""

from __future__ import annotations

import gc
import numbers
import weakref
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch")

from rmsprop_fast import _core  # noqa: E402
from rmsprop_fast.torch import RMSprop  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor


def parameter(size: int = 3) -> Tensor:
    param: Tensor = torch.nn.Parameter(torch.zeros(size))
    param.grad = torch.ones(size)
    return param


@pytest.mark.parametrize("call", [1, 2, 3])
def test_python_code_cannot_take_the_memory_away_between_check_and_step(call: int) -> None:
    """A number is Python code: this one frees the parameter, in whichever call."""
    param = parameter(2**20)

    class Lr:
        calls = 0

        def __float__(self) -> float:
            Lr.calls += 1
            if Lr.calls == call + 2:  # two at construction, and one in each step
                param.untyped_storage().resize_(0)
            return 0.01

    numbers.Real.register(Lr)
    optimizer = RMSprop([param], lr=Lr())  # type: ignore[arg-type]
    for _ in range(call - 1):
        optimizer.step()
    with pytest.raises(TypeError, match="expected a tensor with memory of its own"):
        optimizer.step()


def test_a_kernel_without_its_part_in_cpp_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        _core.ParamGroups.__new__(_core.ParamGroups)


def test_nothing_is_kept_alive() -> None:
    """Neither by a cycle that the collector cannot see nor until the next step."""
    param = parameter()
    optimizer = RMSprop([param, parameter()], lr=torch.tensor(0.1))
    param.owner = optimizer  # type: ignore[attr-defined]
    optimizer.step()
    of_param, of_optimizer = weakref.ref(param), weakref.ref(optimizer)
    del optimizer.param_groups[0]["params"][0], optimizer.state[param]
    del param.owner, param  # type: ignore[attr-defined]
    gc.collect()
    assert of_param() is None
    optimizer.param_groups[0]["params"][0].owner = optimizer
    del optimizer
    gc.collect()
    assert of_optimizer() is None


def test_a_plain_dict_is_a_state_too() -> None:
    optimizer = RMSprop([parameter()])
    optimizer.state = {}  # type: ignore[assignment]
    optimizer.step()
    assert len(optimizer.state) == 1


def test_a_parameter_that_comes_twice_is_refused_without_a_trace() -> None:
    param = parameter()
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = RMSprop([param, param])
    with pytest.raises(ValueError, match="overlaps the memory of"):
        optimizer.step()
    assert not optimizer.state
    assert param.tolist() == [0, 0, 0]


@pytest.mark.parametrize("bad", ["meta", "sparse", "shape", "number"])
def test_a_state_dict_without_usable_values_is_refused_and_changes_nothing(bad: str) -> None:
    param = parameter()
    optimizer = RMSprop([param])
    optimizer.step()
    before = optimizer.state[param]["square_avg"].clone()
    saved = optimizer.state_dict()
    values: dict[str, Any] = {
        "meta": before.to("meta"),
        "sparse": before.to_sparse(),
        "shape": before[:2],
        "number": 1.0,
    }
    saved["state"] = {0: {**saved["state"][0], "square_avg": values[bad]}}
    with pytest.raises((TypeError, ValueError), match=r"^state\[0\]\['square_avg'\]: expected "):
        optimizer.load_state_dict(saved)
    assert torch.equal(optimizer.state[param]["square_avg"], before)
    optimizer.step()
    assert optimizer.state[param]["step"] == 2


def test_a_hook_may_give_the_closure() -> None:
    optimizer = RMSprop([parameter()])
    seen: list[Any] = []

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        seen.append((args, kwargs))
        return args, {"closure": lambda: 5.0}

    optimizer.register_step_pre_hook(hook)
    assert optimizer.step() == 5.0
    assert seen == [((optimizer,), {})]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (-1.0, "expected a finite number of at least 0"),
        (float("nan"), "expected a finite number of at least 0"),
        ("x", "expected a finite number of at least 0, or a tensor of one, got 'x'"),
        (torch.ones(2), "or a tensor of one, got tensor"),
        (torch.tensor(1j), "or a tensor of one, got tensor"),
        (torch.tensor(1.0, device="meta"), "or a tensor of one, got tensor"),
    ],
)
def test_what_is_no_step_count_is_refused(count: Any, message: str) -> None:
    param = parameter()
    optimizer = RMSprop([param], bias_correction=True)
    optimizer.step()
    optimizer.state[param]["step"] = torch.tensor(count) if isinstance(count, float) else count
    before = param.tolist()
    with pytest.raises((TypeError, ValueError), match="^the state of .*'step'.*" + message):
        optimizer.step()
    assert param.tolist() == before


def test_a_step_count_in_the_memory_of_a_parameter_is_refused() -> None:
    param = parameter()
    optimizer = RMSprop([param])
    optimizer.step()
    optimizer.state[param]["step"] = param.detach().abs()[0:1].squeeze()
    optimizer.step()
    optimizer.state[param]["step"] = param.data.abs_()[0]
    with pytest.raises(ValueError, match="overlaps the memory of"):
        optimizer.step()


def test_state_that_is_misaligned_is_copied() -> None:
    param = parameter()
    optimizer = RMSprop([param])
    optimizer.step()
    expected = optimizer.state[param]["square_avg"].tolist()
    raw = torch.zeros(13, dtype=torch.uint8)
    raw[1:].copy_(optimizer.state[param]["square_avg"].view(torch.uint8))
    misaligned = torch.frombuffer(raw.numpy(), dtype=torch.float32, offset=1, count=3)
    assert misaligned.data_ptr() % 4 == 1
    optimizer.state[param]["square_avg"] = misaligned
    param.grad = torch.zeros(3)
    optimizer.step()
    assert optimizer.state[param]["square_avg"].tolist() == pytest.approx([0.99 * s for s in expected])


def test_each_parameter_in_a_group_of_its_own() -> None:
    params = [parameter() for _ in range(300)]
    optimizer = RMSprop([{"params": [param], "lr": 0.1 * index} for index, param in enumerate(params)])
    optimizer.step()
    for index, param in enumerate(params):  # 1 / sqrt(1 - alpha) is 10
        assert param.tolist() == pytest.approx([-index] * 3, rel=1e-5)


def test_numbers_must_be_finite_in_the_type_that_computes_with_them() -> None:
    double = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    double.grad = torch.ones_like(double)
    optimizer = RMSprop([double], lr=1e300)
    optimizer.step()
    assert double.tolist() == pytest.approx([-1e301] * 3)
    single = parameter()
    optimizer.param_groups[0]["params"].append(single)
    with pytest.raises(ValueError, match=r"^param_groups\[0\]\['lr'\]: expected a finite number .* got 1e\+300"):
        optimizer.step()
    assert optimizer.state[double]["step"] == 1
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert single.tolist() == pytest.approx([-1.0] * 3)
