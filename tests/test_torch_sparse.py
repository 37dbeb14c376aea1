"""RMSprop for PyTorch: sparse gradients, in each meaning of the rows that they lack, and one square_avg a row."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import scipy.sparse

import rmsprop_fast as rf
from bits import same_bits

torch = pytest.importorskip("torch")

from rmsprop_fast.torch import RMSprop  # noqa: E402
from torch_oracle import everything  # noqa: E402
from torch_params import DTYPES, Options, Tensor, numbers, parameter, through_a_file  # noqa: E402

NAMES = {"max_grad_norm": "clip_global_norm", "alpha": "rho"}  # in rmsprop_fast.init
LAZY = ("rows", "dense", "catch_up")
OPTIONS: dict[str, Options] = {
    "plain": {},
    "momentum": {"momentum": 0.9, "weight_decay": 0.1},
    "centered": {"centered": True},
    "max_grad_norm": {"max_grad_norm": 0.5},
    "skip_nonfinite": {"skip_nonfinite": True, "eps_inside_sqrt": True},
}
each_lazy = pytest.mark.parametrize("lazy", LAZY)
each_rowwise = pytest.mark.parametrize("rowwise", [False, True])


def is_possible(options: Options) -> bool:
    if options.get("rowwise") and ("centered" in options):
        return False
    return options.get("lazy") != "catch_up" or not {"momentum", "weight_decay", "centered"} & options.keys()


def sparse(values: Tensor, rows: list[int] | Tensor, length: int) -> Tensor:
    """Return a gradient of so many rows; nothing looks at whether those that it has are there."""
    indices = torch.as_tensor(rows, dtype=torch.int64)[None]
    return torch.sparse_coo_tensor(indices, values, (length, *values.shape[1:]), check_invariants=False)


def as_numpy(grad: Tensor) -> Any:
    if grad is None:
        return None
    if grad.layout != torch.sparse_coo:
        return numbers(grad)
    indices, values = grad._indices().clone().numpy(), numbers(grad._values().clone())  # PyTorch resizes its own
    if grad.sparse_dim() == 2:
        return scipy.sparse.coo_array((values, tuple(indices)), tuple(grad.shape))
    return rf.Rows(indices[0], values)


class Reference:
    """Takes the steps of an optimizer with one group by `rmsprop_fast.reference`, on copies in NumPy."""

    def __init__(self, params: list[Tensor], **options: Any) -> None:
        self.params = params
        self.optimizer = RMSprop(params, **options)
        self.copies = [numbers(param).copy(order="K") for param in params]
        given: Options = {"alpha": 0.99} | options
        ours: Options = {str(NAMES.get(name, name)): value for name, value in given.items()}
        self.state = rf.init(self.copies, **ours)

    def check_step(self) -> None:
        rf.reference.step(self.copies, [as_numpy(param.grad) for param in self.params], self.state)
        self.optimizer.step()
        for i, (param, expected) in enumerate(zip(self.params, self.copies, strict=True)):
            assert same_bits(numbers(param), expected)
            if param.grad is not None:
                kept = self.optimizer.state[param]
                for theirs, ours in (("square_avg", "s"), ("variance", "variance"), ("momentum_buffer",) * 2):
                    if theirs in kept:
                        assert same_bits(numbers(kept[theirs]), getattr(self.state, ours)[i])
        assert self.optimizer.grad_norm == self.state.grad_norm


def model(dtype: Any = torch.float32) -> tuple[Any, Any]:
    torch.manual_seed(0)
    return torch.nn.Embedding(50, 7, sparse=True, dtype=dtype), torch.nn.Linear(7, 3, dtype=dtype)


def backward(embedding: Any, linear: Any, seed: int) -> None:
    tokens = torch.randint(0, 50, (20,), generator=torch.Generator().manual_seed(seed))
    torch.autograd.backward(linear(embedding(tokens)).square().sum())


@each_lazy
@each_rowwise
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_embeddings_are_stepped_as_by_the_reference(lazy: str, rowwise: bool, options: Options, dtype: Any) -> None:
    """Beside dense parameters; and sometimes their gradients are dense, too, or not there."""
    options = options | {"lazy": lazy, "rowwise": rowwise, "alpha": 0.8}
    embedding, linear = model(dtype)
    if not is_possible(options):
        with pytest.raises(ValueError, match=r"^(momentum|weight_decay|centered): expected .* with (lazy|rowwise)="):
            RMSprop(embedding.parameters(), **options)
        return
    reference = Reference([*embedding.parameters(), *linear.parameters()], **options)
    for step in range(6):
        torch.set_num_threads(1 + step % 2)
        rf._core._set_share(10)
        reference.optimizer.zero_grad()
        backward(embedding, linear, step)
        if step == 2:
            embedding.weight.grad = embedding.weight.grad.to_dense()
        if step == 3:
            embedding.weight.grad = None
        if step == 4:
            embedding.weight.grad = embedding.weight.grad.coalesce()
        reference.check_step()


@each_lazy
def test_bags_and_accumulated_gradients(lazy: str) -> None:
    """Which PyTorch puts one behind the other; and gradients that were set to zero have no rows."""
    bag = torch.nn.EmbeddingBag(30, 5, mode="sum", sparse=True)
    reference = Reference(list(bag.parameters()), lazy=lazy, alpha=0.5)
    for step in range(4):
        for _ in range(2):
            tokens = torch.randint(0, 30, (12,))
            torch.autograd.backward(bag(tokens, torch.tensor([0, 5, 9])).square().sum())
        assert not bag.weight.grad.is_coalesced()
        reference.check_step()
        reference.optimizer.zero_grad(set_to_none=step % 2 == 0)
        if step % 2:
            assert bag.weight.grad._nnz() == 0
            reference.check_step()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_many_axes_and_types(dtype: Any) -> None:
    param = parameter(9, 2, 3, dtype=dtype)
    reference = Reference([param], lr=0.1)
    for rows in ([8, 0, 8, 8], [], [3]):
        param.grad = sparse(torch.randn(len(rows), 2, 3, dtype=dtype), rows, 9)
        reference.check_step()


@pytest.mark.parametrize("lazy", ["rows", "dense"])
def test_elements(lazy: str) -> None:
    """With all axes sparse, each stored element is stepped."""
    param = parameter(6, 5)
    reference = Reference([param], lazy=lazy, momentum=0.5)
    for _ in range(3):
        indices = torch.stack([torch.randint(0, 6, (9,)), torch.randint(0, 5, (9,))])
        param.grad = torch.sparse_coo_tensor(indices, torch.randn(9), (6, 5), check_invariants=True)
        reference.check_step()


def test_other_memory_orders() -> None:
    """Values and indices with strides; and values that do not lie as the rows of their parameter do."""
    param = parameter(6, 3, 2)
    reference = Reference([param])
    indices = torch.tensor([[5, 9], [0, 9], [5, 9]]).t()[:1]
    for values in (torch.randn(3, 2, 3).transpose(1, 2), torch.randn(6, 3, 2)[::2]):
        param.grad = torch.sparse_coo_tensor(indices, values, (6, 3, 2), check_invariants=True)
        reference.check_step()
    twisted = torch.randn(6, 2, 3).transpose(1, 2).requires_grad_()
    param.grad = twisted.grad = sparse(torch.randn(2, 3, 2), [4, 4], 6)
    param.data.copy_(twisted)
    optimizers = [RMSprop([p]) for p in (param, twisted)]
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(param, twisted)
    fortran = torch.randn(3, 6).t().requires_grad_()
    fortran.grad = sparse(torch.ones(1, 3), [0], 6)
    with pytest.raises(
        ValueError, match=r"\.grad: expected a parameter whose first axes, 1 of them, are the outermost"
    ):
        RMSprop([fortran]).step()


def test_a_parameter_with_gaps() -> None:
    memory = torch.randn(6, 2, 2)
    param = memory[..., 0].requires_grad_()
    expected = param.detach().clone().requires_grad_()
    for each in (param, expected):
        each.grad = sparse(torch.ones(2, 2), [4, 1], 6)
        RMSprop([each]).step()
    assert torch.equal(param, expected)


REFUSED: dict[str, tuple[Any, Options, type[Exception], str]] = {
    "an index too large": (
        lambda: sparse(torch.ones(2, 3), [1, 4], 4),
        {},
        ValueError,
        "from 0 to 3 for axis 0, got 4",
    ),
    "a negative index": (lambda: sparse(torch.ones(2, 3), [1, -1], 4), {}, ValueError, "0 to 3 for axis 0, got -1"),
    "a type": (
        lambda: sparse(torch.ones(2, 3, dtype=torch.float64), [1, 0], 4),
        {},
        TypeError,
        r"expected torch\.float32 or torch\.float16 or torch\.bfloat16, got torch\.float64",
    ),
    "elements that are to catch up": (
        lambda: torch.ones(4, 3).to_sparse(),
        {"lazy": "catch_up"},
        TypeError,
        "expected rows with lazy='catch_up', got 2 sparse axes",
    ),
    "elements instead of rows": (
        lambda: torch.ones(4, 3).to_sparse(),
        {"rowwise": True},
        TypeError,
        "expected rows with rowwise=True, got 2 sparse axes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(case: str) -> None:
    make, options, error, message = REFUSED[case]
    fine, param = parameter(3), parameter(4, 3)
    optimizer = RMSprop([fine, param], **options)
    optimizer.step()
    before = everything(optimizer, fine, param)
    param.grad_dtype = None
    param.grad = make()
    with pytest.raises(error, match=rf"^param_groups\[0\]\['params'\]\[1\]\.grad: .*{message}"):
        optimizer.step()
    assert everything(optimizer, fine, param) == before
    param.grad = sparse(torch.ones(1, 3), [2], 4)
    optimizer.step()
    assert everything(optimizer, fine, param) != before


def test_rows_that_are_not_touched_may_not_be_others() -> None:
    memory = torch.zeros(8, 3)
    table, other = memory[:6].requires_grad_(), memory[5:].requires_grad_()
    table.grad, other.grad = sparse(torch.ones(1, 3), [0], 6), sparse(torch.ones(1, 3), [2], 3)
    with pytest.raises(ValueError, match="overlaps the memory of"):
        RMSprop([table, other]).step()
    assert not memory.any()


@pytest.mark.parametrize("wrong", ["axes", "count", "width", "strides", "type", "indices"])
def test_a_kernel_with_tensors_that_do_not_fit_reads_none_of_them(wrong: str) -> None:
    """Which `step` prevents."""
    param = parameter(6, 4)
    optimizer = RMSprop([param], rowwise=wrong == "axes")
    indices, values = torch.tensor([[1, 2]]), torch.ones(2, 4)
    state = (
        torch.zeros(6, 1) if wrong == "axes" else torch.zeros(6, 4),
        *(None,) * 4,
        torch.tensor(0.0),
        None,
        None,
    )
    given = {
        "axes": (torch.ones(2), torch.tensor([[1, 2], [0, 1]])),
        "count": (values[:1], indices),
        "width": (values[:, :3].contiguous(), indices),
        "strides": (torch.ones(4, 2).t(), indices),
        "type": (values.double(), indices),
        "indices": (values, indices[0]),
    }[wrong]
    param.grad = sparse(values, [1, 2], 6)
    groups: list[Any] = [{**optimizer.param_groups[0], "params": [param]}]

    def fit(*_: Any) -> Any:
        return param, given[0], *state, given[1]

    before = param.detach().clone()
    with pytest.raises(RuntimeError, match="expected tensors that stay as they are during a step"):
        optimizer._kernel.step(groups, optimizer.state, fit, lambda: None, 1)
    assert torch.equal(param, before)


def train(optimizer: Any, embedding: Any, linear: Any, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        backward(embedding, linear, step)
        optimizer.step()


@each_lazy
@each_rowwise
@pytest.mark.parametrize("through", ["state_dict", "pickle", "deepcopy"])
def test_going_on_from_what_was_saved(lazy: str, rowwise: bool, through: str) -> None:
    """Gives the same bytes as not stopping."""
    first, second = model(), model()
    optimizers = [RMSprop([*e.parameters(), *n.parameters()], lazy=lazy, rowwise=rowwise) for e, n in (first, second)]
    train(optimizers[0], *first, range(5))
    if through == "state_dict":
        optimizers[1].load_state_dict(through_a_file(optimizers[0].state_dict()))
        second[0].load_state_dict(first[0].state_dict())
        second[1].load_state_dict(first[1].state_dict())
    else:
        copied = (
            pickle.loads(pickle.dumps((optimizers[0], first)))
            if through == "pickle"
            else copy.deepcopy((optimizers[0], first))
        )
        optimizers[1], second = copied
        optimizers[1].param_groups[0]["params"] = [*second[0].parameters(), *second[1].parameters()]
    train(optimizers[0], *first, range(5, 12))
    train(optimizers[1], *second, range(5, 12))
    saved = [
        everything(o, *e.parameters(), *n.parameters()) for o, (e, n) in zip(optimizers, (first, second), strict=True)
    ]
    own = [[entry for entry in entries if not entry.startswith(b"last_touched")] for entries in saved]
    assert own[0] == own[1]


def test_torch_loads_a_state_dict_with_all_rows_up_to_date() -> None:
    ours, theirs = model(), model()
    optimizers = [RMSprop([*e.parameters()], lazy=lazy) for (e, _), lazy in ((ours, "catch_up"), (theirs, "dense"))]
    for optimizer, parts in zip(optimizers, (ours, theirs), strict=True):
        train(optimizer, *parts, range(20))
    saved = optimizers[0].state_dict()
    assert saved["state"][0].keys() == {"step", "square_avg"}
    expected = optimizers[1].state_dict()["state"][0]["square_avg"]
    torch.testing.assert_close(saved["state"][0]["square_avg"], expected, rtol=1e-5, atol=0)
    other = torch.optim.RMSprop(ours[0].parameters())
    other.load_state_dict(saved)
    assert torch.equal(other.state[ours[0].weight]["square_avg"], saved["state"][0]["square_avg"])


@each_rowwise
def test_another_alpha_is_for_the_steps_that_come(rowwise: bool) -> None:
    """Also for rows that are touched later: they catch up with the one that there was."""
    pairs = [
        (RMSprop(parts[0].parameters(), lazy=lazy, rowwise=rowwise), parts)
        for lazy, parts in (("catch_up", model()), ("dense", model()))
    ]
    for optimizer, parts in pairs:
        for step in range(40):
            optimizer.param_groups[0]["alpha"] = 0.5 + 0.01 * (step // 5)
            optimizer.zero_grad()
            backward(*parts, step)
            if step % 5 == 0:
                parts[0].weight.grad = parts[0].weight.grad.to_dense()
            optimizer.step()
    catching_up, dense = (parts[0].weight for _, parts in pairs)
    torch.testing.assert_close(catching_up, dense, rtol=1e-5, atol=1e-6)
    own = pairs[0][0]
    own.param_groups[0]["alpha"] = 0.25
    before = everything(own, catching_up)
    catching_up.grad = sparse(torch.ones(1, 7), [50], 50)
    with pytest.raises(ValueError, match="from 0 to 49"):
        own.step()
    assert everything(own, catching_up) == before


def test_groups_may_differ_in_what_lazy_is() -> None:
    params = [parameter(20, 4) for _ in LAZY]
    optimizer = RMSprop([params[0]])
    for lazy, param in zip(LAZY[1:], params[1:], strict=True):
        optimizer.add_param_group({"params": [param], "lazy": lazy})
    references = [
        Reference([param.detach().clone().requires_grad_()], lazy=lazy)
        for lazy, param in zip(LAZY, params, strict=True)
    ]
    for _ in range(5):
        for param, reference in zip(params, references, strict=True):
            rows = torch.randint(0, 20, (6,))
            param.grad = reference.params[0].grad = sparse(torch.randn(6, 4), rows, 20)
            reference.check_step()
        optimizer.step()
    for param, reference in zip(params, references, strict=True):
        assert torch.equal(param, reference.params[0])
    with pytest.raises(ValueError, match=r"lazy: expected one of 'rows', 'dense', 'catch_up', got 'eager'"):
        optimizer.add_param_group({"params": [parameter(2)], "lazy": "eager"})


def test_rowwise_state() -> None:
    params = [parameter(6, 5), parameter(4), parameter(), parameter(3, 2, 2)]
    optimizer = RMSprop(params, rowwise=True)
    optimizer.step()
    assert [tuple(optimizer.state[p]["square_avg"].shape) for p in params] == [(6, 1), (4,), (), (3, 1, 1)]
    saved = optimizer.state_dict()
    other = RMSprop(params)
    other.load_state_dict(saved)
    assert other.param_groups[0]["rowwise"]
    other.step()
    with pytest.raises(ValueError, match=r"square_avg'\]: expected shape \(6, 5\), got \(6, 1\)"):
        RMSprop(params).load_state_dict(saved | {"param_groups": [dict(saved["param_groups"][0], rowwise=False)]})
    optimizer.param_groups[0]["rowwise"] = False
    with pytest.raises(ValueError, match=r"square_avg'\]: expected shape \(6, 5\), got \(6, 1\)"):
        optimizer.step()
    complex_param = parameter(3, dtype=torch.complex64)
    with pytest.raises(TypeError, match=r"expected a tensor of real numbers in .* rowwise=True, got torch\.complex64"):
        RMSprop([complex_param], rowwise=True).step()
    transposed = torch.randn(3, 2).t().requires_grad_()
    transposed.grad = torch.ones(2, 3)
    with pytest.raises(ValueError, match="expected a first axis that is the outermost in memory with rowwise=True"):
        RMSprop([transposed], rowwise=True).step()
