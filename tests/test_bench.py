"""python -m rmsprop_fast bench: what it measures is what it says, and what it cannot measure it names."""

from __future__ import annotations

import io
import json
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import rmsprop_fast as rf
from rmsprop_fast import _core
from rmsprop_fast.__main__ import main
from rmsprop_fast.bench import cases, loops, report, steps, suite, threads
from rmsprop_fast.bench.cases import EXTRAS, Case, Row, Subject, measure_case
from rmsprop_fast.bench.limits import Limit
from rmsprop_fast.bench.loops import DEFAULT, Variants, fixed
from rmsprop_fast.bench.machine import thread_counts
from rmsprop_fast.bench.models import MODELS, mobilenet_v2
from rmsprop_fast.bench.peers import ADAGRAD, LOOP, OURS, OURS_TORCH, OUT, PEERS, Peer, missing
from rmsprop_fast.bench.problems import checked, make_problem
from rmsprop_fast.bench.processes import Fresh, run_python
from rmsprop_fast.bench.steps import Problem, Step
from rmsprop_fast.bench.suite import Result, Suite
from rmsprop_fast.bench.targets import targets
from rmsprop_fast.bench.threads import DefaultThreads, Scaling, measure_scaling
from rmsprop_fast.bench.timings import Timings
from rmsprop_fast.bench.workloads import Workload, kmeans, numba_denoising, numpy_mlp, torch_mlp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BY_NAME = {peer.name: peer for peer in PEERS}


def skip_without(packages: Sequence[str]) -> None:
    if absent := missing(packages):
        pytest.skip(f"needs {', '.join(absent)}")


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
    skip_without(peer.packages)
    checked(peer, make_problem(shapes))


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer.has_options], ids=lambda peer: peer.name)
@pytest.mark.filterwarnings("ignore")
def test_every_peer_has_the_extras(peer: Peer, extra: str) -> None:
    skip_without(peer.packages)
    checked(peer, make_problem([(100,)], EXTRAS[extra][0]))


def wrong(problem: Problem) -> Step:
    """Forget to update s."""

    def step() -> None:
        for p, g, s in zip(problem.params, problem.grads, problem.s, strict=True):
            p -= steps.LR / (np.sqrt(steps.RHO * s + steps.ONE_MINUS_RHO * g**2) + steps.EPS) * g

    return Step("step()", {"step": step}, lambda: problem.params)


def broken(problem: Problem) -> Step:
    raise RuntimeError("no compiler")


def only(monkeypatch: pytest.MonkeyPatch, *some: Peer) -> Suite:
    monkeypatch.setattr(suite, "PEERS", [BY_NAME[OURS], BY_NAME[OUT], *some])
    monkeypatch.setattr(cases, "SECONDS", 1e-5)
    monkeypatch.setattr(threads, "SECONDS", 1e-5)
    return Suite(quick=True)


def test_what_is_not_measured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Peer("absent", broken, ("no_such_package",))
    found = only(monkeypatch, Peer("wrong", wrong), Peer("broken", broken), absent)
    left_out = found.result.left_out
    case = measure_case(Subject("array", "64", [(64,)]), found.peers, left_out, True)
    assert left_out["absent"] == "not installed: no_such_package"
    assert left_out["wrong"].startswith("failed at 64: AssertionError")
    assert set(case.rows) == {OURS, OUT}
    monkeypatch.setattr(threads, "SCALES", (OURS, "broken"))
    assert set(measure_scaling(64, found.peers, left_out, True).seconds) == {OURS}
    assert left_out["broken"] == "failed at 64: RuntimeError: no compiler"  # and was not asked again
    for name, size in (("too much", 2**46), ("odd", -1)):
        monkeypatch.setattr(suite, "subjects", lambda _, name=name, size=size: [Subject("array", name, [(size,)])])
        found.run(name, dict(found.tasks())[name])
    assert "GB of free memory" in left_out["too much"]
    assert left_out["odd"].startswith("failed: ValueError: ")
    assert not found.result.cases


def test_rows_follow_from_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """One element in 2 ns with the limits at 1 and 0.5 ns, and twice as many bytes as the bare step."""
    found = only(monkeypatch)

    def measure(self: Timings, candidates: dict[str, Any], **_: object) -> None:
        seconds = {OURS: 2e-6, OUT: 8e-6}
        for name in candidates:
            self.rounds[name] = [seconds.get(name, 1e-6 if "compute" in name else 0.25e-6)] * 3

    monkeypatch.setattr(Timings, "measure", measure)
    case = measure_case(Subject("extras", "some", [(1000,)], {}, 40), found.peers, {}, True)
    assert (case.best_peer, case.limit) == (OUT, 1e-6)
    assert set(case.memory_limit.values()) == {0.5e-6}
    ours, theirs = case.rows[OURS], case.rows[OUT]
    assert (ours.ns_per_element, ours.gb_per_s, ours.share_of_limit) == pytest.approx((2, 20, 0.5))
    assert (ours.of_best_peer[1], theirs.of_best_peer[1], theirs.of_ours[1]) == pytest.approx((0.25, 1, 4))


def test_limits_grow_with_the_work_and_leave_the_threads_as_they_were() -> None:
    before = rf.get_num_threads(), _core._share()
    problem = make_problem([(2**16,)])
    names = steps.rmsprop_fast(problem).names
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


def loop(name: str, seconds: float, others: dict[str, float]) -> loops.Loop:
    """Return one in which ours takes so many seconds by default, and 1 us with any fixed number of threads."""
    ways = {DEFAULT: seconds, **{fixed(count): 1e-6 for count in thread_counts()}, **others}
    return loops.loop(name, 100, {way: [(0.75 * taken, 0.25 * taken)] * 3 for way, taken in ways.items()})


def result(seconds: float) -> Result:
    """Return a case of each kind in which ours takes so many seconds, NumPy 8 us, and the limits are 1 us."""
    row = Row((seconds,) * 3, 1, 1, 1e-6 / seconds, (seconds / 8e-6,) * 3, (1, 1, 1))
    theirs = Row((8e-6,) * 3, 1, 1, 1 / 8, (1, 1, 1), (8e-6 / seconds,) * 3)
    limit = {1: 1e-6, 2: 1e-6}
    found = Result({"processor": "some", "threads": "2"})
    for kind, name, elements in (("array", "16 Ki", 2**14), ("array", "32 Mi", 2**25), ("model", "some", 100)):
        found.cases.append(Case(kind, name, elements, 1, 20, limit, limit, 1e-6, OUT, {OURS: row, OUT: theirs}))
    found.loops.append(loop("NumPy MLP, 1024 wide", seconds, {OUT: 8e-6}))
    found.loops.append(loop("PyTorch MLP, 64 wide", seconds, {LOOP: 2e-6, ADAGRAD: 2e-6}))
    found.fresh.append(Fresh(OURS, 1e4 * seconds, 4e4 * seconds, 1e8))
    found.tree_ns_per_leaf.append((80, 90, 100))
    found.default_threads.append(DefaultThreads("64", "nothing", seconds, {1: 1e-6, 2: 2e-6}, seconds / 1e-6))
    found.scaling.append(Scaling("64", {OURS: {1: seconds}}))
    found.left_out["Keras"] = "not installed: [keras]"
    return found


def test_figures_of_a_loop_follow_from_its_rounds() -> None:
    """The ratios are those within a round, the best number of threads has the least median."""
    counts = thread_counts()
    rounds = {
        DEFAULT: [(3.0, 1.0), (6.0, 2.0), (30.0, 10.0)],
        **{fixed(count): [(4.0 + i, 0.0), (7.0 + i, 1.0 + i), (9.0 + i, 1.0)] for i, count in enumerate(counts)},
        OUT: [(2.0, 6.0), (4.0, 12.0), (1.0, 3.0)],
    }
    found = loops.loop("some", 7, rounds)
    assert (found.name, found.elements, found.best) == ("some", 7, "threads=1")
    assert found.ways[DEFAULT].whole == (4, 8, 40)
    assert found.ways[DEFAULT].parts == (6, 2)
    assert found.ways[DEFAULT].of_best == (1, 1, 4)
    assert found.ways[OUT].of_default == pytest.approx((0.1, 2, 2))


SMALL = [
    Workload("numpy", partial(numpy_mlp, 16)),
    Workload("torch", partial(torch_mlp, 16), OURS_TORCH, (LOOP, ADAGRAD), ("torch",)),
    Workload("numba", partial(numba_denoising, 16), packages=("numba",)),
    Workload("scikit-learn", partial(kmeans, 16, 64), packages=("sklearn", "scipy")),
]


@pytest.fixture
def _threads_as_before() -> Iterator[None]:
    yield
    rf.set_num_threads(None)


@pytest.mark.parametrize("workload", SMALL, ids=lambda workload: workload.name)
@pytest.mark.usefixtures("_threads_as_before")
def test_every_loop_learns_and_all_take_the_same_way(workload: Workload) -> None:
    skip_without(workload.packages)
    variants = Variants(workload)
    assert list(variants.steps) == [DEFAULT, *map(fixed, thread_counts()), *workload.peers]
    variants.check()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda problem: Step("None", {}, lambda: problem.params), "NumPy, out=: expected a loss below .*, got "),
        (wrong, "NumPy, out=: expected to go the way of default threads, got .* of the way off"),
    ],
    ids=["none", "wrong"],
)
@pytest.mark.usefixtures("_threads_as_before")
def test_a_loop_with_another_step_is_refused(monkeypatch: pytest.MonkeyPatch, step: Any, message: str) -> None:
    monkeypatch.setattr(loops, "PEERS", [BY_NAME[OURS], Peer(OUT, step)])
    with pytest.raises(AssertionError, match=message):
        Variants(SMALL[0]).check()


@pytest.mark.usefixtures("_threads_as_before")
def test_a_block_starts_anew_with_its_threads_and_a_warm_up() -> None:
    seen: list[tuple[float, int]] = []

    def gradients(problem: Problem, batch: int) -> float:
        seen.append((float(problem.params[0][0]), rf.get_num_threads()))
        time.sleep(0.5 if batch == 0 else 0.02)
        return 0.0

    variants = Variants(Workload("sleeps", lambda: ([np.array([3, 4], np.float32)], gradients)))
    for name, count in variants.counts.items():
        seen.clear()
        producer, step = variants.run(name)
        assert 0.02 <= producer < 0.2
        assert 0 < step < 0.02
        assert seen[0][0] == 3
        assert seen[-1][0] < 3  # as g > 0
        assert {threads for _, threads in seen} == {count or rf.get_num_threads()}
        assert len(seen) >= 5


def test_a_loop_of_numpy_runs_without_other_libraries() -> None:
    """Their threads would be other ones than those that its users have."""
    script = """
import json, runpy, sys
sys.argv = ["loops", "--here", "1", "NumPy MLP, 64"]
runpy.run_module("rmsprop_fast.bench.loops", run_name="__main__")
print(json.dumps([name for name in ("torch", "jax", "numba", "sklearn", "scipy") if name in sys.modules]))
"""
    assert run_python("-c", script, timeout=60) == []


def test_a_process_that_hangs_or_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TimeoutError, match=r"^no result within 0.5 s$"):
        run_python("-c", "import time; time.sleep(60)", timeout=0.5)
    with pytest.raises(RuntimeError, match=r"^OSError: gone$"):
        run_python("-c", "print(1)\nraise OSError('gone')", timeout=60)
    absent = Workload("absent", SMALL[0].prepare, packages=("no_such_package",))
    monkeypatch.setattr(suite, "WORKLOADS", [Workload("unknown", SMALL[0].prepare), absent])
    found = only(monkeypatch)
    found.quick = False
    tasks = dict(found.tasks())
    found.run("unknown", tasks["unknown"])
    left_out = found.result.left_out
    assert left_out["absent"] == "not installed: no_such_package"
    assert left_out["unknown"].startswith("failed: RuntimeError: ")
    assert left_out["unknown"].endswith("NAME: expected a part of a loop's name, got unknown")
    assert not found.result.loops


def test_targets_are_reached_or_missed() -> None:
    fast, slow = targets(result(1.02e-6)), targets(result(20e-6))
    assert [target.what for target in fast] == [target.what for target in slow]
    reached = [1.05, 1 / 1.6, 1.05, 1, 1, 1 / 0.9, 1.03, 1 / 0.95, 1 / 6, 1.03, 1.25, 100, 30, 0.05]
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
    for expected in ("1024 wide", "1.5 us", "500 ns"):  # of the loop
        assert expected in text
    written = report.markdown(found)
    assert "| NumPy MLP, 1024 wide | 2 us = 1.5 us + 500 ns | 1 us = 750 ns + 250 ns (0.50 x)" in written
    assert "8 us = 6 us + 2 us (4.00 x) | 2.00 (2.00 to 2.00) |" in written
    assert "| **rmsprop_fast** | 2 us | 2 us |" in written
    assert "| NumPy, out= | 8 us (4 x) | 8 us (4 x) |" in written
    assert report.markdown(Result.from_json(json.dumps(found.as_dict()))) == written
    report.plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(found.as_dict()))["cases"][0]["rows"][OURS]["share_of_limit"] == 0.5


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "PEERS", [BY_NAME[OURS], BY_NAME[OUT]])
    tasks = Suite.tasks
    wanted = (
        "NumPy MLP, 64 wide",
        "64",
        "MLP policy",
        "momentum, 16 Ki",
        "fresh process, rmsprop_fast",
        "tree of 158 arrays",
    )

    def few(self: Suite) -> Iterator[Any]:
        return (task for task in tasks(self) if task[0] in wanted)

    monkeypatch.setattr(Suite, "tasks", few)


@pytest.mark.usefixtures("few_tasks")
def test_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    assert main(["bench", "--quick", "--json", str(output), "--plot", str(picture)]) == 0
    printed = capfd.readouterr().out
    for title in (
        "Training loops",
        "One step of n float32",
        "One step of a whole model",
        "With fused extras",
        "Targets",
    ):
        assert title in printed
    written = json.loads(output.read_text())
    assert [(case["kind"], case["name"]) for case in written["cases"]] == [
        ("array", "64"),
        ("model", "MLP policy"),
        ("extras", "momentum, 16 Ki"),
    ]
    (found,) = written["loops"]
    assert (found["name"], found["elements"]) == ("NumPy MLP, 64 wide", 784 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10)
    assert set(found["ways"]) == {DEFAULT, *map(fixed, thread_counts()), OUT}
    (fresh,) = written["fresh"]
    assert 0 < fresh["seconds"] < 60
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
