"""RMSprop as one fused pass over memory, in place, byte for byte equal to its NumPy reference.

>>> import numpy as np, rmsprop_fast as rf
>>> params = {"w": np.ones((64, 4), np.float32), "b": np.zeros(64, np.float32)}
>>> grads = {"w": np.ones((64, 4), np.float32), "b": np.ones(64, np.float32)}
>>> state = rf.init(params, lr=0.01)
>>> rf.step(params, grads, state)
>>> state.steps
1
"""

from rmsprop_fast import presets, reference
from rmsprop_fast._core import (
    Rows,
    State,
    __version__,
    get_kernel,
    get_num_threads,
    info,
    init,
    kernels,
    set_kernel,
    set_num_threads,
    step,
)
from rmsprop_fast.family import equations
from rmsprop_fast.minimize import minimize
from rmsprop_fast.reference import step_size
from rmsprop_fast.regression.fitting import fit
from rmsprop_fast.regression.model import LinearModel

__all__ = [
    "LinearModel",
    "Rows",
    "State",
    "__version__",
    "equations",
    "fit",
    "get_kernel",
    "get_num_threads",
    "info",
    "init",
    "kernels",
    "minimize",
    "presets",
    "reference",
    "set_kernel",
    "set_num_threads",
    "step",
    "step_size",
]
