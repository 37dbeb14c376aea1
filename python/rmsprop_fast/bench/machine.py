"""The machine that is measured: what it is, its memory, and how many of its threads are used."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import sys
from typing import TYPE_CHECKING

import numpy as np

import rmsprop_fast as rf
from rmsprop_fast import _core

if TYPE_CHECKING:
    from collections.abc import Iterator


@functools.cache  # what is measured with one is looked up later
def thread_counts() -> list[int]:
    """Return 1, 2, 4, ... up to the default number of threads."""
    most = rf.get_num_threads()
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power < most)})


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Have steps use this many threads, however small they are; None: as they would by default."""
    share = _core._share()
    if count is not None:
        rf.set_num_threads(count)
        _core._set_share(0)
    try:
        yield
    finally:
        rf.set_num_threads(None)
        _core._set_share(share)


@contextlib.contextmanager
def all_threads(count: int) -> Iterator[None]:
    """Have numba and torch use this many threads, too."""
    modules = [sys.modules[name] for name in ("numba", "torch") if name in sys.modules]
    before = [module.get_num_threads() for module in modules]
    with threads(count):
        for module in modules:
            module.set_num_threads(count)
        try:
            yield
        finally:
            for module, number in zip(modules, before, strict=True):
                module.set_num_threads(number)


def free_memory() -> int:
    """Return the bytes that may be used without swapping; where that is not known, a modest number."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 4 * 2**30


def machine() -> dict[str, str]:
    """Describe what the figures belong to."""
    info = rf.info()
    found = {
        "processor": platform.processor() or platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "threads": str(info["threads"]),
        "kernel": str(info["kernel"]),
        "compiler": str(info["compiler"]),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
    }
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as lines:
        found["processor"] = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    for package in ("numexpr", "numba", "scikit-learn", "jax", "optax", "torch", "keras", "tensorflow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
