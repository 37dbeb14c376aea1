"""One step by everything a user might pick, side by side: pytest benchmarks/test_step.py"""

from __future__ import annotations

from typing import Any

import pytest

import peers


@pytest.mark.parametrize("size", peers.SIZES)
@pytest.mark.parametrize("name", peers.STATEMENTS)
def test_step(benchmark: Any, size: str, name: str) -> None:
    benchmark.group = f"{size} elements"
    names = peers.names(peers.make_arrays(peers.SIZES[size]))
    benchmark(eval(f"lambda: {peers.STATEMENTS[name]}", names))
