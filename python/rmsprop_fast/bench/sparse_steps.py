"""A step of the rows of a sparse gradient by each of those that take one; other rows stay as they are, or should."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

import rmsprop_fast as rf
from rmsprop_fast import _core
from rmsprop_fast.bench.steps import EPS, HYPER, INITIAL_S, LR, ONE_MINUS_RHO, RHO

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rmsprop_fast.bench.steps import Array


class RowGradient(NamedTuple):
    """What a sparse gradient has for rows, in any order, some more than once."""

    rows: NDArray[np.int64]
    values: Array


def summed(gradient: RowGradient) -> RowGradient:
    """Return each row once, in order."""
    rows, inverse = np.unique(gradient.rows, return_inverse=True)
    sums = np.zeros((len(rows), *gradient.values.shape[1:]), np.float32)
    np.add.at(sums, inverse, gradient.values)
    return RowGradient(rows, sums)


# Takes the step with gradient number i.
Stepper: TypeAlias = Callable[[int], object]
Gradients: TypeAlias = Sequence[RowGradient]


def _ours(**options: Any) -> Callable[[Array, Gradients], Stepper]:
    def prepare(table: Array, gradients: Gradients) -> Stepper:
        state = rf.init(table, **HYPER, **options)
        forms = [rf.Rows(*gradient) for gradient in gradients]
        return lambda i: rf.step(table, forms[i], state)

    return prepare


def dense(table: Array, _: Gradients) -> Stepper:
    state, gradient = rf.init(table, **HYPER), np.ones_like(table)
    return lambda _: rf.step(table, gradient, state)


def limit(table: Array, gradients: Gradients) -> Stepper:
    """Only read and write the rows, each once, with their values and running means."""
    state = rf.init(table, **HYPER)
    forms = [rf.Rows(*summed(gradient)) for gradient in gradients]
    return lambda i: _core._run_limit(table, forms[i], state, True, 1)


def _numpy(table: Array, gradients: Gradients) -> Stepper:
    s = np.full_like(table, INITIAL_S)

    def step(i: int) -> None:
        rows, sums = summed(gradients[i])
        s[rows] = now = RHO * s[rows] + ONE_MINUS_RHO * sums**2
        table[rows] -= LR / (np.sqrt(now) + EPS) * sums

    return step


def _torch(table: Array, gradients: Gradients, make: Callable[[Any], Any]) -> Stepper:
    import torch

    param = torch.nn.Parameter(torch.from_numpy(table))
    optimizer = make([param])
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
        forms = [
            torch.sparse_coo_tensor(torch.from_numpy(rows[np.newaxis]), torch.from_numpy(values), table.shape)
            for rows, values in gradients
        ]

    def step(i: int) -> None:
        param.grad = forms[i]
        optimizer.step()

    return step


def _ours_torch(table: Array, gradients: Gradients) -> Stepper:
    from rmsprop_fast.torch import RMSprop

    options = {"lr": HYPER["lr"], "alpha": HYPER["rho"], "eps": HYPER["eps"], "initial_s": INITIAL_S}
    return _torch(table, gradients, lambda params: RMSprop(params, **options))


def _sparse_adam(table: Array, gradients: Gradients) -> Stepper:
    import torch

    return _torch(table, gradients, torch.optim.SparseAdam)


def _adagrad(table: Array, gradients: Gradients) -> Stepper:
    import torch

    return _torch(table, gradients, torch.optim.Adagrad)


def _tensorflow(table: Array, gradients: Gradients) -> Stepper:
    """Have each value stepped on its own, which is another step where a row comes more than once."""
    import tensorflow

    starts = (table, np.full_like(table, INITIAL_S), np.zeros_like(table))
    variables = [tensorflow.Variable(start) for start in starts]
    names = dict(zip(("var", "ms", "mom"), (variable.handle for variable in variables), strict=True))
    numbers = {name: tensorflow.constant(x) for name, x in (("lr", LR), ("rho", RHO), ("epsilon", np.float32(0)))}
    forms = [(tensorflow.constant(rows), tensorflow.constant(values)) for rows, values in gradients]
    apply, none = tensorflow.raw_ops.ResourceSparseApplyRMSProp, tensorflow.constant(np.float32(0))

    def step(i: int) -> None:
        indices, grad = forms[i]
        apply(**names, **numbers, momentum=none, grad=grad, indices=indices)
        if table.size <= SMALL:  # for the comparison with the reference
            table[...] = variables[0].numpy()

    return step


SMALL = 10_000  # elements


@dataclass(frozen=True)
class SparsePeer:
    """A candidate, and the packages that it needs."""

    name: str
    prepare: Callable[[Array, Gradients], Stepper]
    packages: tuple[str, ...] = ()
    is_rmsprop: bool = True
    imports_long: bool = False


ROWS, ROWS_TORCH, DENSE = "rmsprop_fast, lazy='rows'", "rmsprop_fast.torch", "rmsprop_fast, a dense gradient"
NUMPY, SPARSE_ADAM = "NumPy, np.unique and fancy indexing", "torch SparseAdam"
SPARSE_ADAGRAD, TENSORFLOW = "torch Adagrad, sparse", "TensorFlow, ResourceSparseApplyRMSProp"

SPARSE_PEERS = [
    SparsePeer(ROWS, _ours()),
    SparsePeer("rmsprop_fast, lazy='rows', rowwise", _ours(rowwise=True), is_rmsprop=False),
    SparsePeer("rmsprop_fast, lazy='catch_up'", _ours(lazy="catch_up"), is_rmsprop=False),
    SparsePeer("rmsprop_fast, lazy='dense'", _ours(lazy="dense"), is_rmsprop=False),
    SparsePeer(DENSE, dense, is_rmsprop=False),
    SparsePeer(ROWS_TORCH, _ours_torch, ("torch",)),
    SparsePeer(NUMPY, _numpy),
    SparsePeer(SPARSE_ADAM, _sparse_adam, ("torch",), is_rmsprop=False),
    SparsePeer(SPARSE_ADAGRAD, _adagrad, ("torch",), is_rmsprop=False),
    SparsePeer(TENSORFLOW, _tensorflow, ("tensorflow",), imports_long=True),
]
