"""Compact state and parameters in PyTorch: the bytes of the reference, and state dicts for torch.optim.RMSprop."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import TYPE_CHECKING, Any

import pytest

import rmsprop_fast as rf

torch = pytest.importorskip("torch")

from rmsprop_fast.torch import RMSprop  # noqa: E402
from torch_oracle import ALL_STATE, Oracle, everything  # noqa: E402
from torch_params import HALVES, Options, numbers, parameter, renew, same_numbers, through_a_file  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATS: list[Options] = [
    {"state_dtype": dtype, "rounding": rounding, "low_bits": low_bits}
    for dtype, rounding, low_bits in itertools.product(
        (None, "bfloat16", "uint8"), ("nearest", "stochastic"), (0, 8, 16)
    )
]
COMPACT: list[Options] = [
    {"state_dtype": "bfloat16", "rounding": "stochastic"},
    {"state_dtype": "uint8", "rounding": "stochastic", "low_bits": 8},
    {"state_dtype": "uint8", "low_bits": 16},
]
each_compact = pytest.mark.parametrize("form", COMPACT, ids=lambda form: "-".join(map(str, form.values())))


def some_parameters() -> list[Any]:
    """Return parameters of all types that may be compact, in several memory orders, some of more than a block."""
    turned = parameter(40, 50).detach().t().requires_grad_()
    with_gaps = torch.randn(33, 6)[:, ::2].bfloat16().requires_grad_()
    params = [parameter(3), parameter(300, dtype=torch.bfloat16), parameter(5, 140, dtype=torch.float16), turned]
    params += [with_gaps, parameter(7, 5, dtype=torch.bfloat16), parameter(0)]
    renew(*params)
    return params


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: "-".join(map(str, form.values())))
@pytest.mark.parametrize(
    "options",
    [{}, ALL_STATE, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "max_grad_norm": 1.0}],
    ids=["plain", "all state", "options"],
)
def test_bytes_are_those_of_the_reference(form: Options, options: Options) -> None:
    params = some_parameters()
    groups: list[Any] = [{"params": params[:4]}, {"params": params[4:], "lr": 0.1}]
    oracle = Oracle(RMSprop(groups, **options, **form))
    for _ in range(4):
        oracle.check_step()
        renew(*params)


def renew_both(params: list[Any], others: list[Any]) -> None:
    """Give parameters new gradients, and the others the same."""
    renew(*params)
    for param, other in zip(params, others, strict=True):
        other.grad = param.grad.clone()


@each_compact
@pytest.mark.parametrize("through", ["state_dict", "pickle", "deepcopy"])
def test_going_on_from_what_was_saved(form: Options, through: str) -> None:
    """Gives the same bytes as not stopping."""
    params = some_parameters()
    optimizer = RMSprop(params, **ALL_STATE, **form)
    for _ in range(3):
        optimizer.step()
        renew(*params)
    others = copy.deepcopy(params)
    if through == "state_dict":
        resumed = RMSprop(others)
        resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    else:
        both: Any = {"params": params, "optimizer": optimizer}
        both = copy.deepcopy(both) if through == "deepcopy" else pickle.loads(pickle.dumps(both))
        others, resumed = both["params"], both["optimizer"]
    renew_both(params, others)
    for _ in range(3):
        optimizer.step()
        resumed.step()
        assert same_numbers(others, params)
        assert same_numbers(resumed.state_dict(), optimizer.state_dict())
        renew_both(params, others)


@each_compact
def test_state_dicts_have_float32_numbers(form: Options) -> None:
    """Torch loads them and goes on; and its own are loaded here, rounded."""
    params = [parameter(40, 30), parameter(200)]
    ours = RMSprop(params, momentum=0.9, **form)
    ours.step()
    saved = ours.state_dict()
    for param, state in zip(params, saved["state"].values(), strict=True):
        for key in ("square_avg", "momentum_buffer"):
            assert state[key].dtype == torch.float32
            assert state[key].shape == param.shape
            assert ours.state[param][key].nbytes <= param.nbytes / 2
    theirs = torch.optim.RMSprop(params, momentum=0.9)
    theirs.load_state_dict(saved)
    theirs.step()
    ours.load_state_dict(theirs.state_dict())
    for param in params:
        param.grad.zero_()
    ours.param_groups[0].update(alpha=1.0, momentum=1.0)
    ours.step()  # changes neither, but for rounding
    back = ours.state_dict()["state"]
    for index, state in theirs.state_dict()["state"].items():
        for key in ("square_avg", "momentum_buffer"):
            within = 2.0**-7 if form["state_dtype"] == "bfloat16" else 2.0**-3
            assert torch.allclose(
                back[index][key], state[key], rtol=within, atol=float(state[key].abs().max()) * 2**-14
            )


@each_compact
def test_loading_what_was_saved_changes_nothing(form: Options) -> None:
    params = some_parameters()
    optimizer = RMSprop(params, **ALL_STATE, **form)
    optimizer.step()
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)
    assert same_numbers(optimizer.state_dict(), saved)


def test_with_16_low_bits_parameters_are_the_upper_halves_of_float32() -> None:
    wide = parameter(300)
    wide.data = wide.detach().bfloat16().float()
    narrow = wide.detach().bfloat16().requires_grad_()
    optimizers = RMSprop([wide], **ALL_STATE), RMSprop([narrow], low_bits=16, **ALL_STATE)
    for _ in range(50):
        narrow.grad = torch.randn(300).bfloat16()
        wide.grad = narrow.grad.float()
        for optimizer in optimizers:
            optimizer.step()
    bits = numbers(wide).view("u4")
    assert (numbers(narrow).view("u2") == bits >> 16).all()
    assert (numbers(optimizers[1].state[narrow]["low_order_bits"]).view("u2") == bits & 0xFFFF).all()


def test_state_dtype_may_change_between_steps() -> None:
    """What was kept is rounded, or stays."""
    param = parameter(300)
    optimizer = RMSprop([param])
    optimizer.step()
    before = optimizer.state_dict()["state"][0]["square_avg"].clone()
    for dtype in ("bfloat16", "uint8"):
        optimizer.param_groups[0].update(state_dtype=dtype, alpha=1.0)
        optimizer.step()
        after = optimizer.state_dict()["state"][0]["square_avg"]
        assert optimizer.state[param]["square_avg"].dtype == getattr(torch, dtype)
        assert torch.allclose(after, before, rtol=2.0**-4, atol=0)


@pytest.mark.parametrize("form", COMPACT[:2], ids=["bfloat16", "uint8"])
@pytest.mark.parametrize("lazy", ["rows", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_rows(form: Options, lazy: str, dtype: Any) -> None:
    """Of a sparse gradient: the bytes of a dense one for 'dense', and rows that it does not have stay as they are."""
    table, dense = torch.randn(50, 40).to(dtype).requires_grad_(), None
    dense = table.detach().clone().requires_grad_()
    optimizers = RMSprop([table], lazy=lazy, **form), RMSprop([dense], **form)
    for seed in range(3):
        rows = torch.randperm(50, generator=torch.Generator().manual_seed(seed))[:7]
        values = torch.randn(7, 40).to(dtype)
        table.grad = torch.sparse_coo_tensor(rows[None], values, (50, 40))
        dense.grad = table.grad.to_dense()
        before = table.detach().clone(), optimizers[0].state_dict()["state"]
        for optimizer in optimizers:
            optimizer.step()
        if lazy == "dense":
            assert same_numbers(table, dense)
            assert same_numbers(*(optimizer.state_dict()["state"] for optimizer in optimizers))
        untouched = torch.ones(50, dtype=torch.bool)
        untouched[rows] = False
        if lazy == "rows":
            assert torch.equal(table[untouched], before[0][untouched])
            assert not torch.equal(table[rows], before[0][rows])
        if lazy == "rows" and before[1]:
            after = optimizers[0].state_dict()["state"][0]["square_avg"]
            assert torch.equal(after[untouched], before[1][0]["square_avg"][untouched])


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_narrow_rows_are_refused_with_codes() -> None:
    table = parameter(50, 31)
    table.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 31), (50, 31))
    optimizer = RMSprop([table], state_dtype="uint8")
    before = table.detach().clone()
    with pytest.raises(
        ValueError, match=r"grad: expected a dense gradient, or rows .* of at least 32 elements, .*, got rows of 31"
    ):
        optimizer.step()
    assert torch.equal(table, before)
    RMSprop([table], state_dtype="bfloat16").step()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_parameters_that_have_no_compact_state(dtype: Any) -> None:
    param = parameter(3, dtype=dtype)
    before = param.detach().clone()
    optimizer = RMSprop([param], state_dtype="uint8")
    with pytest.raises(
        TypeError, match=r"\['params'\]\[0\]: expected float32, float16 or bfloat16 with state_dtype='uint8'"
    ):
        optimizer.step()
    assert torch.equal(param, before)
    assert not optimizer.state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_dtype": "int8"}, r"state_dtype: expected one of None, 'bfloat16', 'uint8', got 'int8'"),
        ({"rounding": None}, r"rounding: expected one of 'nearest', 'stochastic', got None"),
        ({"low_bits": 4}, r"low_bits: expected one of 0, 8, 16, got 4"),
        ({"low_bits": True}, r"low_bits: expected one of 0, 8, 16, got True"),
        ({"state_dtype": "uint8", "rowwise": True}, r"state_dtype: expected None with rowwise=True, got 'uint8'"),
        ({"low_bits": 8, "rowwise": True}, r"low_bits: expected 0 with rowwise=True, got 8"),
        ({"state_dtype": "uint8", "lazy": "catch_up"}, r"state_dtype: expected None with lazy='catch_up', got 'uint8'"),
    ],
)
def test_options_that_are_refused(options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RMSprop([parameter(3)], **options)


@pytest.mark.parametrize("wrong", [torch.zeros(300), torch.zeros(299, dtype=torch.uint8), "zeros"])
def test_low_bits_that_do_not_fit_are_refused(wrong: Any) -> None:
    param = parameter(300, dtype=HALVES[0])
    optimizer = RMSprop([param], low_bits=8)
    optimizer.step()
    saved = optimizer.state_dict()
    before = everything(optimizer, param)
    saved["state"][0]["low_order_bits"] = wrong
    with pytest.raises(TypeError, match=r"\['low_order_bits'\]: expected torch.uint8 of shape \(300,\), got"):
        optimizer.load_state_dict(saved)
    assert everything(optimizer, param) == before


@pytest.fixture
def mesh() -> Iterator[Any]:
    """Yield a mesh of two processes, of which this is one and the other one is not there."""
    distributed = pytest.importorskip("torch.distributed")
    store = pytest.importorskip("torch.testing._internal.distributed.fake_pg").FakeStore()
    distributed.init_process_group("fake", store=store, rank=0, world_size=2)
    yield distributed.device_mesh.init_device_mesh("cpu", (2,))
    distributed.destroy_process_group()


def test_shards_are_kept_in_bfloat16_as_other_tensors_are(mesh: Any) -> None:
    tensor: Any = pytest.importorskip("torch.distributed.tensor")
    plain = parameter(40, 50, dtype=torch.bfloat16)
    form: Options = {"state_dtype": "bfloat16", "rounding": "stochastic"}
    local = plain.detach().clone()
    shard = tensor.DTensor.from_local(local, mesh, [tensor.Shard(0)]).requires_grad_()
    optimizers = RMSprop([plain], **ALL_STATE, **form), RMSprop([shard], **ALL_STATE, **form)
    for _ in range(3):
        shard.grad = tensor.DTensor.from_local(plain.grad.clone(), mesh, [tensor.Shard(0)])
        for optimizer in optimizers:
            optimizer.step()
        renew(plain)
    assert same_numbers(shard.to_local(), plain)
    ours, theirs = (optimizer.state_dict()["state"][0] for optimizer in optimizers)
    for key in ("grad_avg", "variance", "momentum_buffer"):
        assert same_numbers(theirs[key].to_local(), ours[key])
    for refused in ({"state_dtype": "uint8"}, {"low_bits": 16}):
        with pytest.raises(
            TypeError, match=r"expected a tensor in this process with (state_dtype|low_bits)=.*, got a DTensor"
        ):
            RMSprop([shard], **refused).step()


def test_codes_follow_a_parameter_into_another_memory_order() -> None:
    """They are in the order of memory in which it was when they were made."""
    param = parameter(4, 32, 4, 4)
    optimizer = RMSprop([param], momentum=0.9, state_dtype="uint8")
    optimizer.step()
    before = optimizer.state_dict()
    param.data = param.detach().contiguous(memory_format=torch.channels_last)
    assert same_numbers(optimizer.state_dict(), before)
    other = param.detach().clone().requires_grad_()
    resumed = RMSprop([other])
    resumed.load_state_dict(before)
    for _ in range(2):
        renew_both([param], [other])
        optimizer.step()
        resumed.step()
        assert same_numbers(other, param)
        assert same_numbers(resumed.state_dict(), optimizer.state_dict())


def test_formats_may_change_between_any_two_steps() -> None:
    """All to all others: what was kept is rounded, or stays."""
    param = parameter(300, dtype=torch.bfloat16)
    optimizer = RMSprop([param], momentum=0.9)
    forms = [(None, 0), ("bfloat16", 8), ("uint8", 16), ("bfloat16", 0), (None, 16), ("uint8", 8), (None, 8), (None, 0)]
    optimizer.step()
    for dtype, low_bits in forms:
        before = optimizer.state_dict()["state"][0]
        param.grad.zero_()
        optimizer.param_groups[0].update(state_dtype=dtype, low_bits=low_bits, alpha=1.0, momentum=1.0, lr=0.0)
        optimizer.step()
        after = optimizer.state_dict()["state"][0]
        for key in ("square_avg", "momentum_buffer"):
            assert torch.allclose(after[key], before[key], rtol=2.0**-3, atol=float(before[key].abs().max()) * 2**-14)
        assert ("low_order_bits" in after) == (low_bits > 0)


def test_low_bits_keep_their_upper_half_when_fewer_are_kept() -> None:
    param = parameter(300, dtype=torch.bfloat16)
    optimizer = RMSprop([param], low_bits=16)
    optimizer.step()
    bits = numbers(optimizer.state[param]["low_order_bits"]).view("u2").copy()
    param.grad.zero_()
    for low_bits, expected in ((8, bits >> 8), (16, bits >> 8 << 8)):
        optimizer.param_groups[0].update(low_bits=low_bits)
        optimizer.step()
        assert (numbers(optimizer.state[param]["low_order_bits"]).view(f"u{low_bits // 8}") == expected).all()


def test_low_bits_that_another_optimizer_has_rounded_are_lost() -> None:
    param = parameter(300, dtype=torch.bfloat16)
    optimizer, theirs = RMSprop([param], low_bits=16), torch.optim.RMSprop([param])
    optimizer.step()
    theirs.load_state_dict(optimizer.state_dict())
    with pytest.warns(UserWarning, match=r"\['low_order_bits'\]: expected torch.int16, got torch.bfloat16"):
        optimizer.load_state_dict(theirs.state_dict())
    assert not optimizer.state[param]["low_order_bits"].any()


def test_step_counts_beyond_all_integers() -> None:
    """Have the same words on every kernel."""
    found = []
    for kernel in rf.kernels():
        rf.set_kernel(kernel)
        param = torch.ones(300, dtype=torch.bfloat16).requires_grad_()
        param.grad = torch.full((300,), 0.1, dtype=torch.bfloat16)
        optimizer = RMSprop([param], lr=1e-3, state_dtype="uint8", rounding="stochastic")
        for count in (2.0**63, 1e30):
            optimizer.step()
            optimizer.state[param]["step"].fill_(count)
        optimizer.step()
        found.append([numbers(param).tobytes(), optimizer.state[param]["square_avg"].tolist()])
    assert all(one == found[0] for one in found)
