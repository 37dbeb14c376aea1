"""One step by everything a user might pick, side by side: pytest benchmarks/test_step.py"""

from __future__ import annotations

from typing import Any

import peers
import pytest


@pytest.mark.parametrize("size", peers.SIZES)
@pytest.mark.parametrize("name", peers.calls(peers.make_arrays(64)))
def test_step(benchmark: Any, size: str, name: str) -> None:
    benchmark.group = f"{size} elements"
    benchmark(peers.calls(peers.make_arrays(peers.SIZES[size]))[name])
