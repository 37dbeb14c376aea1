"""The cases of python -m rmsprop_fast bench, one by one, with pytest-benchmark: pytest benchmarks/test_step.py"""

from __future__ import annotations

from typing import Any

import pytest

from rmsprop_fast.bench.cases import EXTRAS, SIZES
from rmsprop_fast.bench.models import MODELS, Shape
from rmsprop_fast.bench.peers import PEERS, Peer, missing
from rmsprop_fast.bench.problems import checked, make_problem, size_name

pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks

ARRAYS: dict[str, list[Shape]] = {size_name(size): [(size,)] for size in SIZES}

every_peer = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)


def run(benchmark: Any, peer: Peer, shapes: list[Shape], options: dict[str, Any] | None = None) -> None:
    if absent := missing(peer.packages):
        pytest.skip(f"needs {', '.join(absent)}")
    benchmark(checked(peer, make_problem(shapes, options)).function())


@pytest.mark.parametrize("size", ARRAYS)
@every_peer
def test_array(benchmark: Any, peer: Peer, size: str) -> None:
    benchmark.group = f"{size} elements"
    run(benchmark, peer, ARRAYS[size])


@pytest.mark.parametrize("model", MODELS)
@every_peer
def test_model(benchmark: Any, peer: Peer, model: str) -> None:
    benchmark.group = model
    run(benchmark, peer, MODELS[model])


@pytest.mark.parametrize("size", ["16 Ki", "1 Mi", "32 Mi"])
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.has_options], ids=lambda peer: peer.name)
def test_extras(benchmark: Any, peer: Peer, extra: str, size: str) -> None:
    benchmark.group = f"{extra}, {size} elements"
    run(benchmark, peer, ARRAYS[size], EXTRAS[extra][0])
