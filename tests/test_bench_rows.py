"""python -m rmsprop_fast bench: the steps of rows that it measures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from rmsprop_fast.bench import report, sparse
from rmsprop_fast.bench.peers import missing
from rmsprop_fast.bench.sparse import (
    IN_NO_CACHE,
    TABLE,
    WIDTH,
    RowCost,
    SparseCase,
    SparseRow,
    check,
    different_gradients,
    measure_row_cost,
    measure_rows,
    row_costs,
    zipf_gradients,
)
from rmsprop_fast.bench.sparse_steps import DENSE, NUMPY, ROWS, SPARSE_PEERS, RowGradient, SparsePeer, limit, summed
from rmsprop_fast.bench.suite import Result
from rmsprop_fast.bench.targets import targets

if TYPE_CHECKING:
    from rmsprop_fast.bench.sparse_steps import Stepper

BY_NAME = {peer.name: peer for peer in SPARSE_PEERS}


@pytest.mark.parametrize("peer", SPARSE_PEERS, ids=lambda peer: peer.name)
@pytest.mark.filterwarnings("ignore")  # of the frameworks
def test_every_peer_steps_the_rows(peer: SparsePeer) -> None:
    if absent := missing(peer.packages):
        pytest.skip(f"needs {', '.join(absent)}")
    check(peer)


def test_another_step_is_refused() -> None:
    def idle(*_: Any) -> Stepper:
        return lambda i: None

    for is_rmsprop in (False, True):
        with pytest.raises(AssertionError):
            check(SparsePeer("idle", idle, is_rmsprop=is_rmsprop))
    with pytest.raises(AssertionError):
        check(SparsePeer(NUMPY, BY_NAME[DENSE].prepare))


def test_gradients_have_the_rows_that_they_are_said_to_have() -> None:
    random = np.random.default_rng(0)
    zipf, other = zipf_gradients(50_000, 2, random)
    assert zipf.rows.shape == (4096,)
    assert zipf.values.shape == (4096, WIDTH)
    assert 0 <= zipf.rows.min() < zipf.rows.max() < 50_000
    assert 500 < len(np.unique(zipf.rows)) < 2000
    assert not np.array_equal(zipf.rows, other.rows)
    different = different_gradients(10**6, 1000, random)
    assert len(different) * different[0].values.nbytes <= IN_NO_CACHE
    assert all(len(np.unique(gradient.rows)) == 1000 for gradient in different)
    rows, sums = summed(RowGradient(np.array([7, 2, 7]), np.array([[1], [2], [4]], np.float32)))
    assert (rows.tolist(), sums.tolist()) == ([2, 7], [[2], [5]])


def test_the_limit_goes_through_the_rows_and_no_others() -> None:
    table = np.full((10, WIDTH), 2, np.float32)
    limit(table, [RowGradient(np.array([3, 8, 3]), np.ones((3, WIDTH), np.float32))])(0)
    assert (table[8] == 1).all()  # the smaller one of parameter and gradient
    assert (np.delete(table, 8, axis=0) == 2).all()


def test_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "QUICK_TABLE", 5000)
    monkeypatch.setattr(sparse, "SECONDS", 1e-4)
    failing = SparsePeer("failing", lambda *_: 1 / 0)  # type: ignore[arg-type]
    absent = SparsePeer("absent", BY_NAME[NUMPY].prepare, ("no_such_package",))
    monkeypatch.setattr(sparse, "SPARSE_PEERS", [BY_NAME[ROWS], BY_NAME[NUMPY], failing, absent])
    left_out: dict[str, str] = {}
    case = measure_rows(left_out, quick=True)
    assert set(case.rows) == {ROWS, NUMPY}
    assert left_out == {
        "failing": "failed: ZeroDivisionError: division by zero",
        "absent": "not installed: no_such_package",
    }
    assert case.rows[ROWS].of_ours == (1, 1, 1)
    assert case.rows[NUMPY].of_ours[1] > 1
    assert 0 < case.limit < case.rows[NUMPY].seconds[1]
    cost = measure_row_cost(5000, 100, quick=True)
    assert 0 < cost.ns < 1e6
    assert 0 < cost.limit_ns < 1e6
    monkeypatch.setattr(sparse, "free_memory", lambda: 1000)
    for measure in (lambda: measure_rows(left_out, quick=True), lambda: measure_row_cost(5000, 100, quick=True)):
        with pytest.raises(MemoryError, match="GB of free memory"):
            measure()
    assert len(list(row_costs(quick=False))) > len(list(row_costs(quick=True))) > 0


def test_report_and_targets() -> None:
    rows = {
        name: SparseRow((seconds,) * 3, (seconds / 2e-4,) * 3)
        for name, seconds in ((ROWS, 2e-4), (DENSE, 0.019), (NUMPY, 0.003))
    }
    found = Result({}, sparse=[SparseCase("1,000,000 x 64", TABLE, 4096, 1184, 1e-4, rows)])
    found.row_costs.append(RowCost(10**7, 1000, 160.4, 140.2))
    assert [(target.most, target.is_reached) for target in targets(found)] == [(0.01, False), (0.2, True)]
    written = report.markdown(found)
    assert "### A step of 4,096 rows, 1,184 of them different, of 1,000,000 x 64 float32" in written
    assert f"| {DENSE} | 19 ms | 19 ms to 19 ms | 95 |" in written
    assert "| the limit: to read and write each row once | 100 us |" in written
    assert "| 10,000,000 | 1,000 | 160 ns | 140 ns |" in written
    assert report.markdown(Result.from_json(json.dumps(found.as_dict()))) == written
    found.sparse[0].table = 1000
    assert not targets(found)
