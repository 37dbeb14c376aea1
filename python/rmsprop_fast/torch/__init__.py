"""RMSprop for PyTorch on the CPU: a drop-in for `torch.optim.RMSprop` that takes a step of all parameters in one pass.

>>> import torch
>>> from rmsprop_fast.torch import RMSprop
>>> model = torch.nn.Linear(3, 1)
>>> optimizer = RMSprop(model.parameters(), lr=1e-3)
"""

import torch

if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
    raise ImportError(f"rmsprop_fast.torch: expected PyTorch 2.13 or newer, got {torch.__version__}")

from rmsprop_fast.torch.optimizer import RMSprop

__all__ = ["RMSprop"]
