"""State dicts of RMSprop for PyTorch, to and from torch.optim.RMSprop in the middle of a training; copies of it."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bits import same_bits
from tolerances import difference

torch = pytest.importorskip("torch")

from rmsprop_fast.torch import RMSprop  # noqa: E402
from rmsprop_fast.torch import optimizer as optimizer_module  # noqa: E402
from torch_oracle import ALL_STATE, OWN_OPTIONS, Oracle  # noqa: E402
from torch_params import (  # noqa: E402
    DTYPES,
    HALVES,
    TOLERANCES,
    Options,
    Tensor,
    flat,
    magnitudes,
    numbers,
    parameter,
    renew,
    same_numbers,
    through_a_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TORCH, OURS = torch.optim.RMSprop, RMSprop
CASES: list[Options] = [{}, {"momentum": 0.9, "weight_decay": 0.1}, {"centered": True}, {**ALL_STATE, "maximize": True}]
ROUTES = [[OURS, TORCH], [TORCH, OURS], [OURS, TORCH, OURS, TORCH], [TORCH, OURS, TORCH, OURS]]


def stepped(options: Options, *params: Tensor, steps: int = 2) -> RMSprop:
    """Return an optimizer that has taken steps."""
    optimizer = RMSprop(params, **options)
    for _ in range(steps):
        renew(*params)
        optimizer.step()
    return optimizer


# --- With torch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("options", CASES, ids=repr)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: " ".join(cls.__module__.split(".")[0] for cls in route))
def test_a_training_goes_on_with_the_other_one(route: list[Any], options: Options, dtype: Any) -> None:
    """50 steps with each, through a file, against one that stays with torch.

    Gradients grow by leaps: what is left of an earlier stage, such as its variance, is far off in the next one.
    """
    start = [torch.randn(shape, dtype=dtype) for shape in [(7, 3), (), (2, 3, 4)]]
    params, alone = ([p.clone().requires_grad_() for p in start] for _ in range(2))
    staying = TORCH(alone, **options)
    saved: Any = None
    found, expected = [flat(params)], [flat(alone)]
    for stage, cls in enumerate(route):
        optimizer = cls(params, **options)
        if saved is not None:
            optimizer.load_state_dict(saved)
        for _ in range(50):
            for param, other in zip(params, alone, strict=True):
                param.grad = magnitudes(param.shape, dtype) * 2**stage
                other.grad = param.grad.clone()
            optimizer.step()
            staying.step()
            found.append(flat(params))
            expected.append(flat(alone))
        saved = through_a_file(optimizer.state_dict())
    assert difference(np.array(found), np.array(expected)) <= TOLERANCES[dtype]


@pytest.mark.parametrize("options", CASES, ids=repr)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_the_state_dict_is_that_of_torch(options: Options, dtype: Any) -> None:
    """The same keys, shapes, dtypes and memory; with centered the variance as well."""
    shapes = [(4, 3, 2, 2), ()]
    dicts = []
    for cls in (OURS, TORCH):
        params = [torch.ones(shape, dtype=dtype).requires_grad_() for shape in shapes]
        params[0].data = params[0].data.contiguous(memory_format=torch.channels_last)
        renew(*params)
        optimizer = cls(params, **options)
        optimizer.step()
        dicts.append(optimizer.state_dict())
    ours, theirs = dicts
    assert ours["param_groups"] == theirs["param_groups"]
    for index, state in theirs["state"].items():
        own = ours["state"][index]
        assert own.keys() - state.keys() == ({"variance"} if "centered" in options else set())
        for key, tensor in state.items():
            assert (own[key].shape, own[key].dtype, own[key].stride()) == (tensor.shape, tensor.dtype, tensor.stride())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_centered_exports_square_avg_and_keeps_its_variance(dtype: Any) -> None:
    param = parameter(50, dtype=dtype)
    optimizer = stepped({"centered": True}, param)
    before = list(optimizer.state[param])
    saved = optimizer.state_dict()["state"][0]
    variance, mean, square = (numbers(saved[key]) for key in ("variance", "grad_avg", "square_avg"))
    assert same_bits(square, variance + mean * mean)
    assert list(optimizer.state[param]) == before
    assert set(before) == {"step", "variance", "grad_avg"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_variance_is_trusted_only_while_it_makes_up_square_avg(dtype: Any) -> None:
    """Element by element: what another optimizer has changed is computed anew, at least 0."""
    param = parameter(50, dtype=dtype)
    optimizer = stepped({"centered": True}, param)
    saved = copy.deepcopy(optimizer.state_dict())
    state = saved["state"][0]
    variance, mean = numbers(state["variance"]).copy(), numbers(state["grad_avg"])
    square = numbers(state["square_avg"])  # which is in the memory of the dict
    square[:10] *= 2
    square[10:20] *= 0
    expected = variance.copy()
    expected[:20] = np.maximum(square[:20] - mean[:20] * mean[:20], 0)
    optimizer.load_state_dict(saved)
    param.grad = None
    renew(param)
    optimizer.param_groups[0]["alpha"] = 1.0  # means stay as they are
    optimizer.step()
    assert same_bits(numbers(optimizer.state[param]["variance"]), expected)
    assert (expected[10:20] == 0).all()
    assert "square_avg" not in optimizer.state[param]


@pytest.mark.parametrize("steps", [0, 3])
def test_options_that_a_dict_of_torch_lacks_stay_and_others_are_loaded(steps: int) -> None:
    param = parameter(3)
    theirs = TORCH([param], lr=0.5, momentum=0.3)
    for _ in range(steps):
        theirs.step()
    optimizer = RMSprop([param], momentum=0.9, nesterov=True, clip_value=2.0, initial_s=1.0, foreach=True)
    optimizer.load_state_dict(theirs.state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.5, 0.3)
    assert [group[key] for key in ("nesterov", "clip_value", "initial_s", "foreach")] == [True, 2.0, 1.0, True]
    optimizer.step()
    assert optimizer.state[param]["step"] == steps + 1


def test_a_checkpoint_of_graphs_on_a_gpu_loads() -> None:
    """Such a one has capturable=True, which is refused elsewhere: how to run is no part of what was learnt."""
    params = parameter(3), parameter(3)
    theirs = TORCH([params[0]])
    theirs.step()
    saved = theirs.state_dict()
    saved["param_groups"][0].update(capturable=True, differentiable=True, foreach=True)
    optimizer = RMSprop([params[1]])
    optimizer.load_state_dict(saved)
    group = optimizer.param_groups[0]
    assert (group["capturable"], group["differentiable"], group["foreach"]) == (False, False, None)
    optimizer.step()
    assert saved["param_groups"][0]["capturable"] is True


def test_state_of_old_versions_loads() -> None:
    """With a number as its step, and groups that lack options."""
    param = parameter(3)
    optimizer = RMSprop([param], momentum=0.5)
    group = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "weight_decay": 0, "params": [0]}
    state = {"step": 7, "square_avg": torch.ones(3), "momentum_buffer": torch.zeros(3)}
    optimizer.load_state_dict({"state": {0: state}, "param_groups": [group]})
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]) == (0.1, 0.5)
    optimizer.step()
    assert torch.equal(optimizer.state[param]["step"], torch.tensor(8.0))
    assert state["step"] == 7


# --- Loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", CASES, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_loaded_is_what_was_saved(options: Options, dtype: Any) -> None:
    """To the byte: state of halves is float32, with bits that no half has, and stays so."""
    params = [parameter(40, dtype=dtype), parameter(2, 3, dtype=dtype)]
    optimizer = stepped({**options, "lr": torch.tensor(0.25)}, *params)
    saved = optimizer.state_dict()
    if dtype in HALVES:
        for key, tensor in saved["state"][0].items():
            assert tensor.dtype == torch.float32
            assert key == "step" or (tensor.to(dtype).float() != tensor).any()
    others = [param.detach().clone().requires_grad_() for param in params]
    loaded = RMSprop(others)
    loaded.load_state_dict(through_a_file(saved))
    assert same_numbers(loaded.state_dict(), saved)
    for param, other in zip(params, others, strict=True):
        renew(param)
        other.grad = param.grad.clone()
    oracle = Oracle(loaded)
    oracle.start_from(saved)
    oracle.check_step()


@pytest.mark.parametrize("cls", [OURS, TORCH], ids=["of ours", "of torch"])
def test_loading_copies(cls: Any) -> None:
    param = parameter(3)
    theirs = cls([param], **ALL_STATE)
    theirs.step()
    saved = theirs.state_dict()
    before = copy.deepcopy(saved)
    optimizer = RMSprop([param])
    optimizer.load_state_dict(saved)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 7.0
    assert same_numbers(saved, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_state_of_another_dtype_is_converted(dtype: Any) -> None:
    theirs = TORCH([parameter(9, dtype=dtype)], **ALL_STATE)
    theirs.step()
    saved = theirs.state_dict()
    param = parameter(9)
    optimizer = RMSprop([param])
    optimizer.load_state_dict(saved)
    for key in ("square_avg", "grad_avg", "momentum_buffer"):
        assert same_numbers(optimizer.state[param][key], saved["state"][0][key].float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64], ids=str)
@pytest.mark.parametrize("options", CASES, ids=repr)
def test_state_of_another_memory_format_is_converted(options: Options, dtype: Any) -> None:
    """That of a checkpoint, and that of a parameter which is moved between two steps."""
    param = parameter(2, 3, 4, 5, dtype=dtype)
    optimizer = stepped(options, param)
    saved = optimizer.state_dict()
    other = param.detach().clone(memory_format=torch.channels_last).requires_grad_()
    loaded = RMSprop([other])
    loaded.load_state_dict(saved)
    param.data = param.data.contiguous(memory_format=torch.channels_last)
    renew(param)
    other.grad = param.grad.clone()
    for now in (loaded, optimizer):
        oracle = Oracle(now)
        oracle.start_from(saved)
        oracle.check_step()
        for key, tensor in now.state[now.param_groups[0]["params"][0]].items():
            assert key == "step" or tensor.stride() == other.stride()


def other_shape(saved: Any) -> None:
    saved["state"][1]["momentum_buffer"] = torch.zeros(4)


def more_parameters(saved: Any) -> None:
    saved["param_groups"][1]["params"].append(2)


def more_groups(saved: Any) -> None:
    saved["param_groups"].append(copy.deepcopy(saved["param_groups"][1]))


def fewer_groups(saved: Any) -> None:
    saved["param_groups"].pop()


def illegal_option(saved: Any) -> None:
    saved["param_groups"][1]["lr"] = -1.0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_shape, r"^state\[1\]\['momentum_buffer'\]: expected shape \(2,\), got \(4,\)"),
        (more_parameters, "parameter group that doesn't match the size"),
        (more_groups, "different number of parameter groups"),
        (fewer_groups, "different number of parameter groups"),
        (illegal_option, "^lr: expected a finite number of at least 0, got -1.0"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(spoil: Callable[[Any], None], message: str) -> None:
    params = [parameter(3), parameter(2)]
    groups = [{"params": [param]} for param in params]
    source, optimizer = (RMSprop(copy.copy(groups), lr=lr, momentum=0.9) for lr in (0.5, 0.01))
    source.step()
    optimizer.step()
    optimizer.step()
    saved = copy.deepcopy(source.state_dict())
    spoil(saved)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    assert same_numbers(optimizer.state_dict(), before)
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    optimizer.step()


def test_hooks_of_others_see_and_change_what_is_saved_and_loaded() -> None:
    """What they put in place of a tensor is not rounded to the half that its parameter is, either."""
    param = parameter(3, dtype=torch.float16)
    optimizer = stepped(ALL_STATE, param)
    calls: list[str] = []
    thirds = torch.full((3,), 1 / 3)

    def after_saving(_optimizer: Any, saved: Any) -> Any:
        calls.append(f"saved with square_avg: {'square_avg' in saved['state'][0]}")
        return {**saved, "note": "mine"}

    def before_loading(_optimizer: Any, saved: Any) -> Any:
        calls.append(f"loading {saved['note']}")
        group = {**saved["param_groups"][0], "lr": 0.125}
        return {"state": {0: {**saved["state"][0], "momentum_buffer": thirds, "mine": [1, 2]}}, "param_groups": [group]}

    optimizer.register_state_dict_pre_hook(lambda _: calls.append("saving"))
    optimizer.register_state_dict_post_hook(after_saving)
    optimizer.register_load_state_dict_pre_hook(before_loading)
    optimizer.register_load_state_dict_post_hook(lambda _: calls.append("loaded"))
    for _ in range(2):
        calls.clear()
        saved = optimizer.state_dict()
        assert saved["note"] == "mine"
        optimizer.load_state_dict(saved)
        assert calls == ["saving", "saved with square_avg: True", "loading mine", "loaded"]
        assert optimizer.param_groups[0]["lr"] == 0.125
        assert optimizer.state[param]["mine"] == [1, 2]
        assert same_numbers(optimizer.state[param]["momentum_buffer"], thirds)
        optimizer.step()


def test_half_checkpoints_of_torch_load_as_float32_and_ours_load_there() -> None:
    for dtype in HALVES:
        param = parameter(9, dtype=dtype)
        theirs = TORCH([param], **ALL_STATE)
        theirs.step()
        ours = RMSprop([param])
        ours.load_state_dict(theirs.state_dict())
        for key in ("square_avg", "grad_avg", "momentum_buffer"):
            assert same_numbers(ours.state[param][key], theirs.state[param][key].float())
        ours.step()
        theirs.load_state_dict(ours.state_dict())
        assert theirs.state[param]["square_avg"].dtype == dtype
        theirs.step()


# --- Copies ----------------------------------------------------------------------------------------------------------


def pickled(optimizer: RMSprop) -> RMSprop:
    found: RMSprop = pickle.loads(pickle.dumps(optimizer))
    return found


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("options", CASES, ids=repr)
def test_a_copy_goes_on_alone(copied: Callable[[RMSprop], RMSprop], options: Options) -> None:
    params = [parameter(5), parameter(2, 3)]
    optimizer = stepped({**options, "skip_nonfinite": True}, *params)
    params[0].grad = torch.full_like(params[0], torch.nan)
    optimizer.step()
    saved = optimizer.state_dict()
    before = copy.deepcopy((saved, [param.detach() for param in params]))
    duplicate = copied(optimizer)
    assert (optimizer.skipped, duplicate.skipped) == (1, 0)  # of what this object has skipped
    assert same_numbers(duplicate.state_dict(), saved)
    others = duplicate.param_groups[0]["params"]
    renew(*others)
    oracle = Oracle(duplicate)
    oracle.start_from(saved)
    oracle.check_step()
    assert same_numbers([optimizer.state_dict(), [param.detach() for param in params]], list(before))
    renew(*params)
    oracle = Oracle(optimizer)
    oracle.skipped = 1
    oracle.start_from(saved)
    oracle.check_step()


def test_a_copy_of_a_model_that_shares_parameters_with_its_optimizer() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = RMSprop(model.parameters(), momentum=0.9)
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    twin, twins = copy.deepcopy((model, optimizer))
    assert [id(param) for param in twin.parameters()] == [id(param) for param in twins.param_groups[0]["params"]]
    renew(*twin.parameters())
    oracle = Oracle(twins)
    oracle.start_from(optimizer.state_dict())
    oracle.check_step()


# --- Options that change what is kept --------------------------------------------------------------------------------


CHANGES: list[Options] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.0},
    {"momentum": 0.5},
    {"centered": True},
    {"momentum": 0.0},
    {"centered": False},
    {"centered": True, "momentum": 0.9},
    {"centered": False},
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_momentum_and_centered_may_come_and_go(dtype: Any) -> None:
    """The buffer begins at 0 and is kept while it is not used; the variance is what square_avg says it is, and back."""
    param = parameter(20, dtype=dtype)
    optimizer = RMSprop([param])
    zeros = np.zeros_like(numbers(param.detach().to(torch.promote_types(dtype, torch.float32))))
    kept = dict.fromkeys(("square_avg", "variance", "grad_avg", "momentum_buffer"), zeros)
    group = optimizer.param_groups[0]
    for step, change in enumerate(CHANGES):
        was_centered = group["centered"]
        group.update(change)
        if group["centered"] and not was_centered:
            kept["variance"] = np.maximum(kept["square_avg"] - kept["grad_avg"] * kept["grad_avg"], 0)
        renew(param)
        oracle = Oracle(optimizer)
        oracle.begin(param, kept, step)
        oracle.check_step()
        state = oracle.states[param]
        kept["square_avg"] = state.s  # with centered, the variance and the square of the mean
        for name in ("variance", "grad_avg", "momentum_buffer"):
            kept[name] = kept[name] if getattr(state, name) is None else getattr(state, name)


# --- Options that others do not have ---------------------------------------------------------------------------------

# What torch.optim.RMSprop's own pickles may lack, and what ours may: options that came later.
LATER = ["momentum", "centered", "capturable", "foreach", "maximize", "differentiable", *OWN_OPTIONS]


@pytest.mark.parametrize("key", LATER)
def test_yesterdays_files_lack_an_option_and_load(key: str) -> None:
    """Whole objects and state dicts go on as with its default."""
    param = parameter(5)
    optimizer = stepped({} if key == "momentum" else {"momentum": 0.9}, param)
    for group in (*optimizer.param_groups, optimizer.defaults):
        group.update(OWN_OPTIONS)  # yesterday's groups had all options
        group.pop(key)
    saved = optimizer.state_dict()
    unpickled = pickled(optimizer)
    loaded = RMSprop([param.detach().clone().requires_grad_()])
    loaded.load_state_dict(through_a_file(saved))
    for now in (unpickled, loaded):
        (group,) = now.param_groups
        if key in OWN_OPTIONS:
            assert key not in group
        else:
            assert group[key] == inspect.signature(TORCH).parameters[key].default
        renew(*group["params"])
        oracle = Oracle(now)
        oracle.start_from(saved)
        oracle.check_step()


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, None], ids=["deepcopy", "pickle", "state dict"])
def test_todays_files_load_when_there_is_a_made_up_option(
    copied: Callable[[RMSprop], RMSprop] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of tomorrow have it only where it is used, and load today."""
    param = parameter(5)
    optimizer = stepped({}, param)
    saved = optimizer.state_dict()
    monkeypatch.setitem(optimizer_module._NEUTRAL, "made_up", 0)
    tomorrow = copied(optimizer) if copied else RMSprop([param])
    tomorrow.load_state_dict(saved)
    tomorrow.add_param_group({"params": [parameter(2)], "made_up": 1})
    assert ["made_up" in group for group in tomorrow.param_groups] == [False, True]
    oracle = Oracle(tomorrow)
    oracle.begin(tomorrow.param_groups[0]["params"][0], {"square_avg": numbers(saved["state"][0]["square_avg"])}, 2)
    renew(*tomorrow.param_groups[0]["params"])
    oracle.check_step()
    monkeypatch.undo()
    today = RMSprop([{"params": [param]}, {"params": [parameter(2)]}])
    today.load_state_dict(through_a_file(tomorrow.state_dict()))
    today.step()
    assert [group.get("made_up") for group in today.param_groups] == [None, 1]


def test_state_of_others_is_saved_as_it_is() -> None:
    """Such as a number under a name, which a hook may leave."""
    param = parameter(3)
    optimizer = stepped(ALL_STATE, param)
    state: dict[Any, Any] = optimizer.state
    optimizer.register_state_dict_pre_hook(lambda _: state.update(note=7))
    saved = optimizer.state_dict()
    assert saved["state"]["note"] == 7
    assert "square_avg" in saved["state"][0]
    loaded = RMSprop([param])
    loaded.load_state_dict(saved)
    assert list(loaded.state.values())[-1] == 7
    loaded.step()
