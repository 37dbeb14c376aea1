"""python -m rmsprop_fast bench: what it measures is what it says, and what it cannot measure it names."""

from __future__ import annotations

import io
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import rmsprop_fast as rf
from rmsprop_fast import _core
from rmsprop_fast.__main__ import main
from rmsprop_fast.bench import peers, report, suite
from rmsprop_fast.bench.models import MODELS, mobilenet_v2
from rmsprop_fast.bench.peers import ADAGRAD, OURS, OUT, PEERS, Peer, Problem, Step
from rmsprop_fast.bench.suite import EXTRAS, Case, Limit, Result, Row, Suite, checked, make_problem
from rmsprop_fast.bench.targets import targets
from rmsprop_fast.bench.timings import Timings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BY_NAME = {peer.name: peer for peer in PEERS}


def test_models_have_the_sizes_that_are_known() -> None:
    sizes = {name: (len(shapes), sum(math.prod(shape) for shape in shapes)) for name, shapes in MODELS.items()}
    assert sizes == {
        "MLP policy": (12, 9_155),
        "Nature DQN": (10, 1_693_362),
        "MobileNetV3-large": (174, 5_483_032),
        "ResNet-50": (161, 25_557_032),
        "GPT-2 small": (148, 124_439_808),
        "embedding, 1M x 64": (1, 64_000_000),
    }
    assert len(mobilenet_v2()) == 158


@pytest.mark.parametrize("shapes", [[(100,)], [(7, 3), (5,), (1500,)]])
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.filterwarnings("ignore")  # of the frameworks
def test_every_peer_takes_steps_of_rmsprop(peer: Peer, shapes: list[tuple[int, ...]]) -> None:
    if missing := peer.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    checked(peer, make_problem(shapes))


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.has_options], ids=lambda peer: peer.name)
@pytest.mark.filterwarnings("ignore")
def test_every_peer_has_the_extras(peer: Peer, extra: str) -> None:
    if missing := peer.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    checked(peer, make_problem([(100,)], EXTRAS[extra][0]))


def wrong(problem: Problem) -> Step:
    """Forget to update s."""

    def step() -> None:
        for p, g, s in zip(problem.params, problem.grads, problem.s, strict=True):
            p -= peers.LR / (np.sqrt(peers.RHO * s + peers.ONE_MINUS_RHO * g**2) + peers.EPS) * g

    return Step("step()", {"step": step}, lambda: problem.params)


def broken(problem: Problem) -> Step:
    raise RuntimeError("no compiler")


def only(monkeypatch: pytest.MonkeyPatch, *some: Peer) -> Suite:
    monkeypatch.setattr(suite, "PEERS", [BY_NAME[OURS], BY_NAME[OUT], *some])
    monkeypatch.setattr(suite, "SECONDS", 1e-5)
    return Suite(quick=True)


def test_what_is_not_measured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Peer("absent", broken, ("no_such_package",))
    found = only(monkeypatch, Peer("wrong", wrong), Peer("broken", broken), absent)
    found.measure("array", "64", [(64,)])
    found.measure("array", "too much", [(2**46,)])
    left_out = found.result.left_out
    assert left_out["absent"] == "not installed: no_such_package"
    assert left_out["wrong"].startswith("failed at 64: AssertionError")
    assert left_out["broken"] == "failed at 64: RuntimeError: no compiler"
    assert "GB of free memory" in left_out["too much"]
    (case,) = found.result.cases
    assert set(case.rows) == {OURS, OUT}
    monkeypatch.setattr(suite, "SCALES", (OURS, "broken"))
    found.measure_scaling(64)
    assert {name for row in found.result.scaling for name in row["seconds"]} == {OURS}
    found.run("some task", lambda: found.measure("array", "some", [(-1,)]))
    assert left_out["some task"].startswith("failed: ValueError: ")


def test_rows_follow_from_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """One element in 2 ns with the limits at 1 and 0.5 ns, and twice as many bytes as the bare step."""
    found = only(monkeypatch)

    def measure(self: Timings, candidates: dict[str, Any], **_: object) -> None:
        seconds = {OURS: 2e-6, OUT: 8e-6}
        for name in candidates:
            self.rounds[name] = [seconds.get(name, 1e-6 if "compute" in name else 0.25e-6)] * 3

    monkeypatch.setattr(Timings, "measure", measure)
    found.measure("extras", "some", [(1000,)], bytes_per_element=40)
    (case,) = found.result.cases
    assert (case.best_peer, case.limit) == (OUT, 1e-6)
    assert set(case.memory_limit.values()) == {0.5e-6}
    ours, theirs = case.rows[OURS], case.rows[OUT]
    assert (ours.ns_per_element, ours.gb_per_s, ours.share_of_limit) == pytest.approx((2, 20, 0.5))
    assert (ours.of_best_peer[1], theirs.of_best_peer[1], theirs.of_ours[1]) == pytest.approx((0.25, 1, 4))


def test_limits_grow_with_the_work_and_leave_the_threads_as_they_were() -> None:
    before = rf.get_num_threads(), _core._share()
    problem = make_problem([(2**16,)])
    names = peers.rmsprop_fast(problem).names
    for memory in (True, False):
        limit = Limit(problem, names, memory, 1)
        one, many = (min(limit.timeit(number) for _ in range(5)) for number in (1, 1600))
        assert 300 < many / one < 8000
    assert (rf.get_num_threads(), _core._share()) == before
    assert problem.state.steps == 0


@pytest.mark.parametrize("memory", [True, False])
def test_limits_refuse_what_they_are_not_for(memory: bool) -> None:
    p, g = np.ones(4), np.ones(4)
    with pytest.raises(TypeError, match=r"_run_limit: expected float32 arrays"):
        _core._run_limit(p, g, rf.init(p), memory, 1)


def test_moving_the_streams_touches_every_element() -> None:
    p, g = np.array([1, 5, 3, 2] * 9, np.float32), np.array([2, 4, 3, 1] * 9, np.float32)
    state = rf.init(p, initial_s=3)
    _core._run_limit(p, g, state, True, 2)
    np.testing.assert_array_equal(p, np.array([1, 4, 3, 1] * 9, np.float32))
    np.testing.assert_array_equal(state.s, np.array([3, 4, 3, 3] * 9, np.float32))
    _core._run_limit(p, g, state, False, 2)
    np.testing.assert_array_equal(p, np.array([1, 4, 3, 1] * 9, np.float32))


def result(seconds: float) -> Result:
    """Return a case of each kind in which ours takes so many seconds, NumPy 8 us, and the limits are 1 us."""
    row = Row((seconds,) * 3, 1, 1, 1e-6 / seconds, (seconds / 8e-6,) * 3, (1, 1, 1))
    theirs = Row((8e-6,) * 3, 1, 1, 1 / 8, (1, 1, 1), (8e-6 / seconds,) * 3)
    limit = {1: 1e-6, 2: 1e-6}
    found = Result({"processor": "some", "threads": "2"})
    for kind, name, elements in (("array", "16 Ki", 2**14), ("array", "32 Mi", 2**25), ("model", "some", 100)):
        found.cases.append(Case(kind, name, elements, 1, 20, limit, limit, 1e-6, OUT, {OURS: row, OUT: theirs}))
    found.fresh[OURS] = {"seconds": 1e4 * seconds, "extra": 4e4 * seconds, "peak": 1e8}
    found.tree_ns_per_leaf = (80, 90, 100)
    threads = {"name": "64", "between": "nothing", "default": seconds, "seconds": {1: 1e-6, 2: 2e-6}, "best": 1}
    found.default_threads.append({**threads, "of_best": seconds / 1e-6})
    found.scaling.append({"name": "64", "threads": 1, "seconds": {OURS: seconds}})
    found.left_out["Keras"] = "not installed: [keras]"
    return found


def test_targets_are_reached_or_missed() -> None:
    fast, slow = targets(result(1.02e-6)), targets(result(20e-6))
    assert [target.what for target in fast] == [target.what for target in slow]
    reached = [1 / 0.9, 1.03, 1 / 0.95, 1 / 6, 1.03, 1.25, 100, 30, 0.05]
    assert [target.most for target in fast] == pytest.approx(reached)
    assert all(target.is_reached for target in fast)
    assert [target.what for target in slow if target.is_reached] == ["158 arrays: ns a leaf above the work"]


def test_report_names_every_figure(tmp_path: Path) -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    found = result(2e-6)
    for table in report.tables(found, targets(found)):
        console.print(table)
    text = console.export_text()
    for expected in ("16 Ki", "2 us", "50.00%", "8 us", "NumPy, out=", "missed", "reached", "not installed: [keras]"):
        assert expected in text
    report.plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(found.as_dict()))["cases"][0]["rows"][OURS]["share_of_limit"] == 0.5


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "PEERS", [BY_NAME[OURS], BY_NAME[OUT]])
    tasks = Suite.tasks
    wanted = ("64 elements", "MLP policy", "momentum, 16 Ki", "fresh process, rmsprop_fast", "tree of 158 arrays")

    def few(self: Suite) -> Iterator[Any]:
        return (task for task in tasks(self) if task[0] in wanted)

    monkeypatch.setattr(Suite, "tasks", few)


@pytest.mark.usefixtures("few_tasks")
def test_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    assert main(["bench", "--quick", "--json", str(output), "--plot", str(picture)]) == 0
    printed = capfd.readouterr().out
    for title in ("One step of n float32", "One step of a whole model", "With fused extras", "Targets"):
        assert title in printed
    written = json.loads(output.read_text())
    assert [(case["kind"], case["name"]) for case in written["cases"]] == [
        ("array", "64"),
        ("model", "MLP policy"),
        ("extras", "momentum, 16 Ki"),
    ]
    assert 0 < written["fresh"][OURS]["seconds"] < 60
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(option: str, capsys: Any) -> None:
    assert main(["bench", option, "no/such/folder/file.png"]) == 2
    expected = f"rmsprop-fast: {option}: expected a file in an existing folder, got no/such/folder/file.png\n"
    assert capsys.readouterr().err == expected


def test_adagrad_is_compared_with_its_own_rule() -> None:
    """RMSprop under its name must not pass."""
    with pytest.raises(AssertionError):
        checked(Peer(ADAGRAD, BY_NAME[OUT].prepare), make_problem([(64,)]))
