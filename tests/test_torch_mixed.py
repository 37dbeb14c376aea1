"""Gradients of another type than their parameters, which PyTorch has with `grad_dtype`."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from rmsprop_fast.torch import RMSprop  # noqa: E402
from torch_oracle import ALL_STATE, Oracle  # noqa: E402
from torch_params import HALVES, Options, Tensor, parameter  # noqa: E402

PAIRS = [(p, g) for p in [torch.float32, *HALVES] for g in [torch.float32, *HALVES] if p != g]
each_pair = pytest.mark.parametrize(("dtype", "grad_dtype"), PAIRS, ids=str)


def mixed(*shape: int, dtype: Any, grad_dtype: Any) -> Tensor:
    """Return a parameter that has a gradient of that type."""
    param = parameter(*shape, dtype=dtype)
    param.grad = None
    param.grad_dtype = grad_dtype
    param.grad = torch.randn(shape).to(grad_dtype)
    return param


@each_pair
@pytest.mark.parametrize("options", [{}, {**ALL_STATE, "max_grad_norm": 0.5, "skip_nonfinite": True}], ids=repr)
def test_they_go_where_the_reference_goes(dtype: Any, grad_dtype: Any, options: Options) -> None:
    torch.manual_seed(0)
    params = [mixed(*shape, dtype=dtype, grad_dtype=grad_dtype) for shape in ((7,), (3, 50), ())]
    params += [parameter(5), mixed(9, dtype=dtype, grad_dtype=dtype)]
    optimizer = RMSprop(params, **options)
    oracle = Oracle(optimizer)
    for _ in range(3):
        oracle.check_step()
        for param in params:
            param.grad = torch.randn(param.shape).to(param.grad.dtype)
    assert {kept.dtype for param in params for kept in optimizer.state[param].values()} == {torch.float32}


@each_pair
def test_gradients_in_another_memory_order(dtype: Any, grad_dtype: Any) -> None:
    torch.manual_seed(0)
    param = mixed(4, 6, dtype=dtype, grad_dtype=grad_dtype)
    param.grad = torch.randn(6, 4).to(grad_dtype).t()
    assert param.grad.stride() == (1, 4)
    Oracle(RMSprop([param])).check_step()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_float32_gradients_of_a_half_are_not_rounded(dtype: Any) -> None:
    """By backward, which adds up two gradients of 1 and 2**-20: square_avg = (1 - alpha) * sum**2."""
    param = torch.ones(1, dtype=dtype, requires_grad=True)
    param.grad_dtype = torch.float32
    for factor in (1, 2**-20):
        (param.float() * factor).sum().backward()
    assert param.grad is not None
    assert param.grad.dtype == torch.float32
    optimizer = RMSprop([param], alpha=0)
    optimizer.step()
    assert optimizer.state[param]["square_avg"].item() == 1 + 2**-19
    assert param.item() == torch.tensor(0.99).to(dtype).item()  # 1 - lr * 1
