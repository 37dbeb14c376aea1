from collections.abc import Callable
from typing import Any, TypeAlias, TypedDict, final

import numpy as np
from numpy.typing import NDArray

# An array, or nested lists, tuples and dicts of them. Not spelled out: mypy infers dict[str, object] for a dict of
# arrays with different numbers of axes, which no exact type accepts.
_ArrayTree: TypeAlias = Any
# A number, or a tree of numbers and arrays.
_LrTree: TypeAlias = Any

__version__: str
KEPT: tuple[str, ...]

@final
class State:
    lr: _LrTree
    rho: float
    eps: float
    momentum: float
    nesterov: bool
    lr_in_momentum: bool
    @property
    def centered(self) -> bool: ...
    eps_inside_sqrt: bool
    @property
    def initial_s(self) -> float: ...
    bias_correction: bool
    weight_decay: float
    decoupled: bool
    maximize: bool
    grad_scale: float
    clip_value: float | None
    clip_norm: float | None
    clip_global_norm: float | None
    skip_nonfinite: bool
    @property
    def lazy(self) -> str: ...
    @property
    def rowwise(self) -> bool: ...
    @property
    def state_dtype(self) -> str | None: ...
    rounding: str
    @property
    def low_bits(self) -> int: ...
    steps: int
    skipped: int
    s: _ArrayTree
    variance: _ArrayTree
    grad_avg: _ArrayTree
    momentum_buffer: _ArrayTree
    low_order_bits: _ArrayTree
    @property
    def nbytes(self) -> int: ...
    @property
    def grad_norm(self) -> float | None: ...
    def catch_up(self) -> None: ...
    @property
    def _last(self) -> Any: ...
    def _map(self, function: Callable[[NDArray[Any], Any], Any]) -> Any: ...
    def _set_grad_norm(self, norm: float | None) -> None: ...

@final
class Rows:
    def __init__(self, rows: NDArray[np.integer[Any]], values: NDArray[Any]) -> None: ...
    @property
    def rows(self) -> NDArray[Any]: ...
    @property
    def values(self) -> NDArray[Any]: ...

@final
class ParamGroups:
    def require_legal(self, group: dict[str, Any]) -> None: ...
    def step(
        self,
        param_groups: list[dict[str, Any]],
        state: dict[Any, Any],
        fit: Callable[[int, int, Any], tuple[Any, ...]],
        norm: Callable[[], float | None],
        threads: int,
    ) -> None: ...
    @property
    def skipped(self) -> int: ...
    @property
    def grad_norm(self) -> float | None: ...

class _Info(TypedDict):
    version: str
    kernel: str
    kernels: list[str]
    threads: int
    openmp: str | None
    compiler: str

def init(
    params: _ArrayTree,
    *,
    lr: _LrTree = 0.01,
    rho: float = 0.999,
    eps: float = 1e-08,
    momentum: float = 0.0,
    nesterov: bool = False,
    lr_in_momentum: bool = False,
    centered: bool = False,
    eps_inside_sqrt: bool = False,
    initial_s: float = 0.0,
    bias_correction: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    clip_global_norm: float | None = None,
    skip_nonfinite: bool = False,
    lazy: str = "rows",
    rowwise: bool = False,
    state_dtype: str | None = None,
    rounding: str = "nearest",
    low_bits: int = 0,
) -> State: ...
def step(params: _ArrayTree, grads: _ArrayTree, state: State) -> None: ...
def code_bytes(params: Any) -> int: ...
def pack_codes(params: Any, numbers: Any, codes: Any, is_signed: bool) -> None: ...
def unpack_codes(params: Any, codes: Any, numbers: Any, is_signed: bool) -> None: ...
def misfit(part: str, tensor: Any, like: Any) -> str | None: ...
def param_groups(neutral: dict[str, Any], increment_version: Callable[[list[Any]], object]) -> ParamGroups: ...
def kernels() -> list[str]: ...
def get_kernel() -> str: ...
def set_kernel(name: str) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(num_threads: int | None) -> None: ...
def info() -> _Info: ...
def _share() -> int: ...
def _set_share(elements: int) -> None: ...
def _usable_cpus(root: str) -> int: ...
def _run_limit(params: Any, grads: Any, state: State, memory: bool, passes: float) -> None: ...
