"""python -m rmsprop_fast bench: the steps with compact state and parameters that it measures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import rmsprop_fast as rf
from rmsprop_fast.bench import compact, report
from rmsprop_fast.bench.compact import (
    BITSANDBYTES,
    BY_NAME,
    COMPACT_SIZES,
    FLOAT32,
    FORMATS,
    PEER_PACKAGES,
    QUICK_COMPACT_SIZES,
    UINT8,
    CompactCase,
    CompactRow,
    Format,
    bitsandbytes_step,
    check,
    check_bitsandbytes,
    measure_compact,
)
from rmsprop_fast.bench.limits import limit_name
from rmsprop_fast.bench.machine import thread_counts
from rmsprop_fast.bench.peers import missing
from rmsprop_fast.bench.problems import LARGE
from rmsprop_fast.bench.steps import HYPER
from rmsprop_fast.bench.suite import Result
from rmsprop_fast.bench.targets import targets
from rmsprop_fast.bench.timings import Timings

if TYPE_CHECKING:
    from collections.abc import Callable

LOWEST = "bfloat16 p, g, 8 low bits, uint8 s"


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_format_takes_the_steps_of_the_reference(form: Format) -> None:
    if absent := missing(form.packages):
        pytest.skip(f"needs {', '.join(absent)}")
    check(form)


def test_another_step_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rf, "step", lambda p, g, state: None)
    with pytest.raises(AssertionError, match=r"^uint8 s: expected the bytes of the reference$"):
        check(BY_NAME[UINT8])


def ours(p: Any, g: Any) -> Callable[[], object]:
    state = rf.init(p, **{**HYPER, "initial_s": 0}, state_dtype="uint8")
    return lambda: rf.step(p, g, state)


def test_the_peer_is_refused_if_it_does_not_go_as_far() -> None:
    check_bitsandbytes(ours)
    with pytest.raises(AssertionError):
        check_bitsandbytes(lambda p, g: lambda: None)


@pytest.mark.filterwarnings("ignore")
def test_the_peer_takes_steps_of_rmsprop() -> None:
    if absent := missing(PEER_PACKAGES):
        pytest.skip(f"needs {', '.join(absent)}")
    check_bitsandbytes(bitsandbytes_step)


def test_bytes_are_those_that_a_step_reads_and_writes() -> None:
    """The state's are those that `State.nbytes` counts, and low bits are in it."""
    numbers = np.ones(128 * 64, np.float32)
    for form in FORMATS:
        if missing(form.packages):
            continue
        p = form.array(numbers)
        state = rf.init(p, **form.options)
        assert form.bytes_per_element == (3 * p.nbytes + 2 * state.nbytes) / p.size
    assert BY_NAME[FLOAT32].bytes_per_element == compact.BYTES
    assert BY_NAME[LOWEST].bytes_per_element == 10 + 1 / 64


def test_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "SECONDS", 1e-4)
    monkeypatch.setattr(compact, "LARGE", 2**10)
    monkeypatch.setattr(compact, "bitsandbytes_step", ours)
    monkeypatch.setattr(compact, "PEER_PACKAGES", ())
    left_out: dict[str, str] = {}
    case = measure_compact(2**10, left_out, quick=True)
    assert (case.name, case.elements) == ("1 Ki", 2**10)
    assert set(case.rows) | set(left_out) == {*BY_NAME, BITSANDBYTES}
    assert {FLOAT32, UINT8, BITSANDBYTES} <= set(case.rows)
    assert case.rows[FLOAT32].of_float32 == case.rows[UINT8].of_uint8 == (1, 1, 1)
    for row in case.rows.values():
        assert 0 < row.share_of_limit < 10
        assert row.ns_per_element == row.seconds[1] / 2**10 * 1e9
    monkeypatch.setattr(compact, "LARGE", 2**11)
    assert BITSANDBYTES not in measure_compact(2**10, left_out, quick=True).rows
    monkeypatch.setattr(compact, "free_memory", lambda: 1000)
    with pytest.raises(MemoryError, match="GB of free memory"):
        measure_compact(2**10, left_out, quick=True)
    assert set(QUICK_COMPACT_SIZES) < set(COMPACT_SIZES)
    assert LARGE in COMPACT_SIZES


def test_what_is_not_measured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "SECONDS", 1e-5)
    monkeypatch.setattr(compact, "LARGE", 2**10)
    monkeypatch.setattr(compact, "PEER_PACKAGES", ("no_such_package",))
    monkeypatch.setattr(compact, "missing", lambda packages: [name for name in packages if name != "torch"])
    left_out: dict[str, str] = {}
    assert set(measure_compact(2**10, left_out, quick=True).rows) == {
        form.name for form in FORMATS if form.dtype == "float32"
    }
    assert left_out[LOWEST] == "not installed: ml_dtypes"
    assert left_out[BITSANDBYTES] == "not installed: no_such_package"
    del left_out[BITSANDBYTES]
    monkeypatch.setattr(compact, "PEER_PACKAGES", ())
    monkeypatch.setattr(compact, "bitsandbytes_step", lambda p, g: 1 / 0)
    measure_compact(2**10, left_out, quick=True)
    assert left_out[BITSANDBYTES] == "failed: ZeroDivisionError: division by zero"
    monkeypatch.setattr(compact, "bitsandbytes_step", ours)
    assert BITSANDBYTES not in measure_compact(2**10, left_out, quick=True).rows  # it is not asked again


def test_rows_follow_from_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory takes 20 us for float32, and what is compact takes 20 us: 14 1/64 bytes of 20 are 70 %."""

    def measure(self: Timings, candidates: dict[str, Any], **_: object) -> None:
        seconds = {FLOAT32: 40e-6, BITSANDBYTES: 400e-6}
        seconds |= {limit_name(True, t): 20e-6 for t in thread_counts()}
        seconds |= {limit_name(False, t): 1e-6 for t in thread_counts()}
        for name in candidates:
            self.rounds[name] = [seconds.get(name, 20e-6)] * 3

    monkeypatch.setattr(Timings, "measure", measure)
    monkeypatch.setattr(compact, "LARGE", 2**10)
    monkeypatch.setattr(compact, "bitsandbytes_step", ours)
    monkeypatch.setattr(compact, "PEER_PACKAGES", ())
    rows = measure_compact(2**10, {}, quick=True).rows
    assert rows[FLOAT32].share_of_limit == pytest.approx(0.5)
    assert rows[UINT8].share_of_limit == pytest.approx((14 + 1 / 64) / 20)
    assert (rows[UINT8].of_float32[1], rows[BITSANDBYTES].of_uint8[1]) == pytest.approx((0.5, 20))


def test_report_and_targets() -> None:
    found = Result({})
    for elements, slower in ((LARGE, 5.0), (LARGE, 40.0), (2**10, 5.0)):
        rows = {
            UINT8: CompactRow((1e-3,) * 3, 0.25, 14 + 1 / 64, 0.8, (0.9,) * 3, (1, 1, 1)),
            BITSANDBYTES: CompactRow((slower / 1e3,) * 3, 10, 14 + 1 / 64, 0.02, (slower,) * 3, (slower,) * 3),
        }
        found.compact.append(CompactCase("4 Mi", elements, rows))
    assert [(target.most, target.is_reached) for target in targets(found)] == [(0.1, False), (0.1, True)]
    written = report.markdown(found)
    assert "### A step with compact state and parameters, 4 Mi" in written
    assert "| uint8 s | 1 ms | 1 ms to 1 ms | 0.25 | 0.9 | 1 | 14 | 80% |" in written
    assert f"| {BITSANDBYTES} | 40 ms | 40 ms to 40 ms | 10 | 40 | 40 | 14 | 2% |" in written
    assert report.markdown(Result.from_json(json.dumps(found.as_dict()))) == written
