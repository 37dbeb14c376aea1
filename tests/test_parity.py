"""Presets against the frameworks themselves, step by step.

The frameworks run in other processes: TensorFlow, torch and jax bring OpenMP and abseil runtimes that may clash in one,
Keras takes its backend at import, and the warnings of their imports are none of ours.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pytest

import rmsprop_fast as rf
from bits import Array
from rmsprop_fast import presets
from tolerances import TOLERANCE, TOLERANCE_CENTERED, TOLERANCE_FLOAT64, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Options = dict[str, Any]
# Takes gradients and, when it changes, the learning rate; returns the parameters.
Step: TypeAlias = "Callable[[list[Array], float | None], list[Array]]"

STEPS = 100
LR_HALVES = 50  # the step from which on lr is half of what it was: lr_in_momentum shows only when lr changes


class Peer(NamedTuple):
    """A framework: which preset is its, in whose process it runs, what must be installed, what it calls our options."""

    preset: Callable[..., Options]
    process: str
    modules: tuple[str, ...]
    names: dict[str, str]
    optimizer: Callable[[], Any]
    start: Callable[[Any, Options, list[Array]], Step]


def torch_optimizer() -> Any:
    return import_module("torch").optim.RMSprop


def timm_optimizer() -> Any:
    """Load the optimizer's own file: the whole of timm needs torchvision, in a build that fits that of torch."""
    spec = find_spec("timm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = ModuleType("timm_optim")
    package.__path__ = [os.path.join(spec.submodule_search_locations[0], "optim")]
    sys.modules["timm_optim"] = package
    return import_module("timm_optim.rmsprop_tf").RMSpropTF


def torch_start(optimizer_class: Any, options: Options, start: list[Array]) -> Step:
    torch: Any = import_module("torch")
    params = [torch.tensor(p) for p in start]
    optimizer = optimizer_class(params, **options)

    def step(grads: list[Array], lr: float | None) -> list[Array]:
        if lr is not None:
            optimizer.param_groups[0]["lr"] = lr
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
        return [p.numpy() for p in params]

    return step


def keras_optimizer(backend: str) -> Any:
    os.environ["KERAS_BACKEND"] = backend
    keras: Any = import_module("keras")
    assert keras.backend.backend() == backend
    return keras.optimizers.RMSprop


def keras_start(optimizer_class: Any, options: Options, start: list[Array]) -> Step:
    keras: Any = import_module("keras")
    params = [keras.Variable(p, dtype=p.dtype.name) for p in start]
    optimizer = optimizer_class(**options)

    def step(grads: list[Array], lr: float | None) -> list[Array]:
        if lr is not None:
            optimizer.learning_rate = lr
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in grads], params)
        return [keras.ops.convert_to_numpy(p) for p in params]

    return step


def tf1_optimizer() -> Any:
    return import_module("tensorflow").compat.v1.train.RMSPropOptimizer


def tf1_start(optimizer_class: Any, options: Options, start: list[Array]) -> Step:
    tensorflow: Any = import_module("tensorflow")
    params = [tensorflow.Variable(p) for p in start]
    latest = {"lr": options.pop("learning_rate")}
    optimizer = optimizer_class(learning_rate=lambda: latest["lr"], **options)

    def step(grads: list[Array], lr: float | None) -> list[Array]:
        if lr is not None:
            latest["lr"] = lr
        optimizer.apply_gradients(zip(map(tensorflow.constant, grads), params, strict=True))
        return [p.numpy() for p in params]

    return step


def optax_optimizer() -> Any:
    return import_module("optax").rmsprop


def optax_start(optimizer_function: Any, options: Options, start: list[Array]) -> Step:
    jax: Any = import_module("jax")
    lr = options.pop("learning_rate")
    optimizer = optimizer_function(lambda count: jax.numpy.where(count < LR_HALVES, lr, lr / 2), **options)
    update = jax.jit(optimizer.update)
    latest = {"params": [jax.numpy.asarray(p) for p in start]}
    latest["state"] = optimizer.init(latest["params"])

    def step(grads: list[Array], _lr: float | None) -> list[Array]:
        updates, latest["state"] = update(grads, latest["state"])
        latest["params"] = [p + u for p, u in zip(latest["params"], updates, strict=True)]
        return [np.asarray(p) for p in latest["params"]]

    return step


def mlx_optimizer() -> Any:
    return import_module("mlx.optimizers").RMSprop


def mlx_start(optimizer_class: Any, options: Options, start: list[Array]) -> Step:
    mx: Any = import_module("mlx.core")
    optimizer = optimizer_class(**options)
    latest = {"params": {str(i): mx.array(p) for i, p in enumerate(start)}}

    def step(grads: list[Array], lr: float | None) -> list[Array]:
        if lr is not None:
            optimizer.learning_rate = lr
        gradients = {str(i): mx.array(g) for i, g in enumerate(grads)}
        latest["params"] = optimizer.apply_gradients(gradients, latest["params"])
        return [np.array(p) for p in latest["params"].values()]

    return step


KERAS_NAMES = {
    "lr": "learning_rate",
    "eps": "epsilon",
    "clip_norm": "clipnorm",
    "clip_value": "clipvalue",
    "clip_global_norm": "global_clipnorm",
    "grad_scale": "loss_scale_factor",
}
OPTAX_NAMES = {"lr": "learning_rate", "rho": "decay", "initial_s": "initial_scale", "eps_inside_sqrt": "eps_in_sqrt"}
TF1_NAMES = {"lr": "learning_rate", "rho": "decay", "eps": "epsilon"}
TIMM_NAMES = {"rho": "alpha", "decoupled": "decoupled_decay"}

PEERS = {
    "torch": Peer(presets.torch, "torch", ("torch",), {"rho": "alpha"}, torch_optimizer, torch_start),
    "timm": Peer(presets.timm, "torch", ("timm", "torch"), TIMM_NAMES, timm_optimizer, torch_start),
    # Keras has two implementations, one for torch and one for all other backends.
    "keras-torch": Peer(
        presets.keras, "torch", ("keras", "torch"), KERAS_NAMES, lambda: keras_optimizer("torch"), keras_start
    ),
    "keras-jax": Peer(presets.keras, "jax", ("keras", "jax"), KERAS_NAMES, lambda: keras_optimizer("jax"), keras_start),
    "optax": Peer(presets.optax, "jax", ("optax",), OPTAX_NAMES, optax_optimizer, optax_start),
    "tf1": Peer(presets.tf1, "tensorflow", ("tensorflow",), TF1_NAMES, tf1_optimizer, tf1_start),
    "mlx": Peer(presets.mlx, "mlx", ("mlx",), {"lr": "learning_rate", "rho": "alpha"}, mlx_optimizer, mlx_start),
}

# Keras on torch and timm round 1 - lr * weight_decay to float32, always the same way: up to 3e-8 in every step. Here it
# is a number of float32.
DECAY_BY_POWERS_OF_2 = {"lr": 2**-9, "weight_decay": 2**-3}

TORCH_CASES: list[Options] = [
    {},
    {"lr": 0.003, "rho": 0.8, "eps": 0.1},
    {"momentum": 0.9},
    {"weight_decay": 0.1},
    {"maximize": True},
    {"maximize": True, "weight_decay": 0.1, "momentum": 0.5},
    {"centered": True},
    {"centered": True, "momentum": 0.9, "weight_decay": 0.1, "maximize": True},
]
KERAS_CASES: list[Options] = [
    {},
    {"lr": 0.003, "rho": 0.8, "eps": 0.1},
    {"momentum": 0.9},
    DECAY_BY_POWERS_OF_2,
    {"clip_norm": 1.5},
    {"clip_value": 0.05},
    {"clip_global_norm": 2.0},
    {"grad_scale": 128.0},
    {"grad_scale": 4.0, "clip_norm": 1.5},
    {"grad_scale": 4.0, "clip_value": 0.05, **DECAY_BY_POWERS_OF_2},
    {"grad_scale": 4.0, "clip_global_norm": 2.0, **DECAY_BY_POWERS_OF_2, "momentum": 0.9},
    {"centered": True},
    {"centered": True, "momentum": 0.9, "clip_norm": 1.5, **DECAY_BY_POWERS_OF_2},
]
TF1_CASES: list[Options] = [
    {},
    {"lr": 0.003, "rho": 0.8, "eps": 0.1},
    {"momentum": 0.9},
    {"centered": True},
    {"centered": True, "momentum": 0.9},
]
OPTAX_CASES: list[Options] = [
    {},
    {"lr": 0.003, "rho": 0.8, "eps": 0.1},
    {"eps_inside_sqrt": False, "eps": 0.1},
    {"initial_s": 1.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.0, "nesterov": True},
    {"nesterov": True},
    {"bias_correction": True},
    {"bias_correction": True, "eps_inside_sqrt": False, "momentum": 0.9, "nesterov": True},
    {"centered": True},
    {"centered": True, "eps_inside_sqrt": False, "initial_s": 1.0, "momentum": 0.9, "nesterov": True},
]
TIMM_CASES: list[Options] = [
    {},
    {"lr": 0.003, "rho": 0.8, "eps": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "lr_in_momentum": False},
    {"weight_decay": 0.1},
    {**DECAY_BY_POWERS_OF_2, "decoupled": True},
    {**DECAY_BY_POWERS_OF_2, "decoupled": True, "momentum": 0.9},
    {"centered": True},
    {"centered": True, "momentum": 0.9, "weight_decay": 0.1},
]
MLX_CASES: list[Options] = [{}, {"lr": 0.003, "rho": 0.8, "eps": 0.1}]

CASES = {
    "torch": TORCH_CASES,
    "timm": TIMM_CASES,
    "keras-torch": KERAS_CASES,
    "keras-jax": KERAS_CASES,
    "optax": OPTAX_CASES,
    "tf1": TF1_CASES,
    "mlx": MLX_CASES,
}


# With bias correction, s - m**2 is g**2 - g**2 in the first step, nothing but roundings: eps has to be larger.
STEADY_CASES: list[tuple[str, Options]] = [
    *((name, {"centered": True, "rho": 0.9}) for name in ("torch", "timm", "keras-torch", "keras-jax", "optax", "tf1")),
    ("optax", {"centered": True, "bias_correction": True, "eps": 1.0}),
]


def each(cases: list[tuple[str, Options]]) -> pytest.MarkDecorator:
    """Parametrize a test with these frameworks and options."""
    ids = [f"{name}-{','.join(f'{key}={value}' for key, value in case.items()) or 'defaults'}" for name, case in cases]
    return pytest.mark.parametrize(("name", "options"), cases, ids=ids)


def all_of(*names: str) -> list[tuple[str, Options]]:
    return [(name, options) for name in names for options in CASES[name]]


def problem(dtype: Any, steady: bool) -> tuple[list[Array], list[list[Array]]]:
    """Return the start of some leaves, and gradients that depend on nothing but the step.

    Their magnitudes go from 1e-3 to 10; of any sign and magnitude in each step, or steady but for a tenth.
    """
    random = np.random.default_rng(0)
    shapes: list[tuple[int, ...]] = [(17, 5), (), (2, 3, 4)]

    def gradient(shape: tuple[int, ...]) -> Array:
        return np.asarray(random.choice([-1, 1], shape) * 10 ** random.uniform(-3, 1, shape))

    start = [np.asarray(random.standard_normal(shape), dtype) for shape in shapes]
    if not steady:
        return start, [[gradient(shape).astype(dtype) for shape in shapes] for _ in range(STEPS)]
    levels = [gradient(shape) for shape in shapes]
    return start, [
        [np.asarray(level * random.normal(1, 0.1, level.shape), dtype) for level in levels] for _ in range(STEPS)
    ]


def flat(leaves: list[Array]) -> Array:
    return np.concatenate([leaf.ravel() for leaf in leaves])


def theirs(name: str, options: Options, start: list[Array], gradients: list[list[Array]]) -> Array:
    """Return the parameters after 0, 1, 2, ... steps of the framework, given options by our names."""
    peer = PEERS[name]
    parameters = inspect.signature(peer.optimizer()).parameters
    lr = peer.preset(**options)["lr"]
    if parameters[peer.names.get("lr", "lr")].default is inspect.Parameter.empty:
        options = {"lr": lr, **options}
    named = {peer.names.get(key, key): value for key, value in options.items()}
    step = peer.start(peer.optimizer(), named, start)
    return np.array(
        [flat(start)] + [flat(step(grads, lr / 2 if t == LR_HALVES else None)) for t, grads in enumerate(gradients)]
    )


def ours(hyper: Options, start: list[Array], gradients: list[list[Array]]) -> Array:
    """Return the parameters after 0, 1, 2, ... of our steps."""
    params = [p.copy() for p in start]
    state: Any = rf.init(params, **hyper)
    positions = [flat(params)]
    for t, grads in enumerate(gradients):
        if t == LR_HALVES:
            state.lr /= 2
        rf.step(params, grads, state)
        positions.append(flat(params))
    return np.array(positions)


def defaults(name: str) -> dict[str, Any]:
    """Return the framework's own defaults, of the options that it has one for, by our names."""
    peer = PEERS[name]
    parameters = inspect.signature(peer.optimizer()).parameters
    options = inspect.signature(peer.preset).parameters
    found = {key: parameters[peer.names.get(key, key)].default for key in options}
    return {key: value for key, value in found.items() if value is not inspect.Parameter.empty}


def first_nan_of_torch(_name: str, gradients: Array, steps: int) -> int | None:
    """Return the step in which torch, centered, first makes NaN of a parameter; the gradients stay the same."""
    torch: Any = import_module("torch")
    param = torch.zeros(len(gradients))
    param.grad = torch.tensor(gradients)
    optimizer = torch.optim.RMSprop([param], centered=True)
    for t in range(1, steps + 1):
        optimizer.step()
        if param.isnan().any():
            return t
    return None


Call = Any  # call(function, name, *arguments) is function(name, *arguments), called in the process of that peer


@pytest.fixture(scope="module")
def call() -> Iterator[Call]:
    processes: dict[str, ProcessPoolExecutor] = {}

    def call(function: Callable[..., Any], name: str, *arguments: Any) -> Any:
        for module in PEERS[name].modules:
            if find_spec(module) is None:
                pytest.skip(f"{module} is not installed (pip install 'rmsprop_fast[frameworks]' brings it)")
        key = PEERS[name].process
        if key not in processes:
            processes[key] = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        return processes[key].submit(function, name, *arguments).result()

    yield call
    for process in processes.values():
        process.shutdown(wait=False)


def largest_difference(call: Call, name: str, options: Options, dtype: Any, *, steady: bool) -> float:
    start, gradients = problem(dtype, steady)
    reference = call(theirs, name, options, start, gradients)
    assert reference.dtype == dtype
    assert np.isfinite(reference).all()
    return difference(ours(PEERS[name].preset(**options), start, gradients), reference)


@each(all_of(*PEERS))
def test_a_preset_goes_where_the_framework_goes(call: Call, name: str, options: Options) -> None:
    assert largest_difference(call, name, options, np.float32, steady=False) <= TOLERANCE


@each(STEADY_CASES)
def test_centered_presets_go_there_with_steady_gradients(call: Call, name: str, options: Options) -> None:
    assert largest_difference(call, name, options, np.float32, steady=True) <= TOLERANCE_CENTERED


@each(all_of("torch", "timm"))
def test_a_preset_goes_there_in_float64(call: Call, name: str, options: Options) -> None:
    assert largest_difference(call, name, options, np.float64, steady=False) <= TOLERANCE_FLOAT64


def test_centered_stays_finite_where_torch_makes_nan(call: Call) -> None:
    """A constant gradient has no variance: once s - m**2 has come down to rounding errors, some are below 0."""
    steps = 5000
    gradients = np.geomspace(1e-3, 10, 1000, dtype=np.float32)
    nan_step = call(first_nan_of_torch, "torch", gradients, steps)
    assert nan_step is not None
    assert 1000 < nan_step < 1500  # 0.99**1200 is 6e-6
    params = np.zeros_like(gradients)
    state: Any = rf.init(params, **presets.torch(centered=True))
    for _ in range(steps):
        rf.step(params, gradients, state)
        assert np.isfinite(params).all()


@pytest.mark.parametrize(("g", "moves_there"), [(3e19, True), (3e20, False)])
def test_torch_overflows_later(call: Call, g: float, moves_there: bool) -> None:
    """As its docstring says of the preset: ((1 - rho) * g) * g is finite where g * g is not."""
    start, gradients = [np.ones(3, np.float32)], [[np.full(3, g, np.float32)]] * 3
    there = call(theirs, "torch", {}, start, gradients)
    assert np.all((np.diff(there, axis=0) < 0) == moves_there)
    assert np.all(ours(presets.torch(), start, gradients) == 1)
    for remedy in ({"skip_nonfinite": True}, {"clip_value": 1e18}):
        assert np.all(ours({**presets.torch(), **remedy}, start, [*gradients, [np.ones(3, np.float32)]])[-1] < 1)


# The first move, as a multiple of lr, for a gradient of 0.001 and of 1: g / (sqrt(s) + eps) or g / sqrt(s + eps), with
# s grown from 0 to 0.01 * g**2 (rho 0.99) or to 0.1 * g**2 (rho 0.9), or from 1 to 0.9 + 0.1 * g**2.
FIRST_MOVES = {
    "torch": (1e-3 / (1e-4 + 1e-8), 1 / (0.1 + 1e-8)),  # 9.999 and 10.00
    "mlx": (1e-3 / (1e-4 + 1e-8), 1 / (0.1 + 1e-8)),
    "keras-torch": (1e-3 / (1e-7 + 1e-7) ** 0.5, 1 / (0.1 + 1e-7) ** 0.5),  # 2.236 and 3.162
    "keras-jax": (1e-3 / (1e-7 + 1e-7) ** 0.5, 1 / (0.1 + 1e-7) ** 0.5),
    "optax": (1e-3 / (1e-7 + 1e-8) ** 0.5, 1 / (0.1 + 1e-8) ** 0.5),  # 3.015 and 3.162
    "tf1": (1e-3 / (0.9 + 1e-7 + 1e-10) ** 0.5, 1 / (1 + 1e-10) ** 0.5),  # 0.001054 and 1.000
    "timm": (1e-3 / (0.9 + 1e-7 + 1e-10) ** 0.5, 1 / (1 + 1e-10) ** 0.5),
}


@pytest.mark.parametrize("name", PEERS)
def test_first_moves(name: str) -> None:
    hyper = PEERS[name].preset()
    moved = ours(hyper, [np.zeros(2)], [[np.array([1e-3, 1.0])]])[1]
    assert tuple(-moved / hyper["lr"]) == pytest.approx(FIRST_MOVES[name], rel=1e-12)


@pytest.mark.parametrize("name", PEERS)
def test_first_moves_of_the_framework(call: Call, name: str) -> None:
    moved = call(theirs, name, {}, [np.zeros(2, np.float32)], [[np.array([1e-3, 1.0], np.float32)]])[1]
    assert tuple(-moved / PEERS[name].preset()["lr"]) == pytest.approx(FIRST_MOVES[name], rel=1e-6)


@pytest.mark.parametrize("name", presets.__all__)
def test_init_takes_each_preset_as_it_is(name: str) -> None:
    preset: Options = getattr(presets, name)()
    state = rf.init(np.zeros(3, np.float32), **preset)
    assert {key: getattr(state, key) for key in preset} == preset


@pytest.mark.parametrize("name", PEERS)
def test_defaults_are_those_of_the_framework(call: Call, name: str) -> None:
    parameters = inspect.signature(PEERS[name].preset).parameters
    off = {"weight_decay": 0, "momentum": 0, "grad_scale": 1}  # where the framework says None
    expected = {key: off.get(key) if value is None else value for key, value in call(defaults, name).items()}
    assert parameters.keys() - expected.keys() <= {"lr"}
    assert {key: parameters[key].default for key in expected} == expected


def test_all_presets_are_compared() -> None:
    assert {peer.preset.__name__ for peer in PEERS.values()} == set(presets.__all__)
    assert CASES.keys() == FIRST_MOVES.keys() == PEERS.keys()
