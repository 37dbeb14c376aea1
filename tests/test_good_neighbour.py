"""Promise 3: import changes nothing around it, threads keep to their limits, a fork does not hang."""

from __future__ import annotations

import os
import shutil
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import threadpoolctl

import rmsprop_fast as rf
from marks import has_openmp, linux
from processes import run, run_command
from rmsprop_fast import _core

if TYPE_CHECKING:
    from pathlib import Path


@linux
def test_import_changes_nothing_and_starts_no_thread() -> None:
    code = """
        import ctypes, ctypes.util, os, sys
        import numpy
        libm = ctypes.CDLL(ctypes.util.find_library("m"))
        def surroundings():
            mode = (ctypes.c_char * 64)()
            libm.fegetenv(mode)
            threads = len(os.listdir("/proc/self/task"))
            return threads, dict(os.environ), os.sched_getaffinity(0), mode.raw[:32], sys.getrecursionlimit()
        before = surroundings()
        import rmsprop_fast
        assert surroundings() == before
        p = numpy.zeros(100, "f")
        rmsprop_fast.step(p, p + 1, rmsprop_fast.init(p))
        assert surroundings() == before, "a small step started something"
    """
    run(code)


def test_import_needs_numpy_alone() -> None:
    code = """
        import sys
        import numpy
        before = set(sys.modules)
        import rmsprop_fast
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(new - set(sys.stdlib_module_names) - {"rmsprop_fast", "pybind11_builtins"})
    """
    assert run(code).stdout.strip() == "set()"


def test_import_and_first_step_are_quick() -> None:
    """Some ms over NumPy; on a noisy machine the median of nine processes must stay under 40 ms."""
    code = """
        import time, numpy
        start = time.perf_counter()
        import rmsprop_fast
        p = numpy.zeros(64, "f")
        rmsprop_fast.step(p, numpy.ones(64, "f"), rmsprop_fast.init(p))
        print(time.perf_counter() - start)
    """
    assert statistics.median(float(run(code).stdout) for _ in range(9)) < 0.040


@linux
@has_openmp
def test_default_threads_are_the_least_of_affinity_and_openmp() -> None:
    show = "import rmsprop_fast; print(rmsprop_fast.get_num_threads())"
    pinned = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + show
    usable = min(len(os.sched_getaffinity(0)), _core._usable_cpus(""))
    assert int(run(show).stdout) == usable
    assert int(run(show, OMP_NUM_THREADS="1").stdout) == 1
    assert int(run(show, OMP_NUM_THREADS="64").stdout) == usable
    assert int(run(pinned).stdout) == 1
    assert int(run("import rmsprop_fast; " + pinned).stdout) == 1  # nothing was asked when it was imported
    assert int(run(pinned, OMP_NUM_THREADS="64").stdout) == 1


@linux
@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/b/cpu.max": "50000 100000\n"}, None),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n3:cpu,cpuacct:/docker/y\n0::/z\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "90000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, None),
    ],
)
def test_the_cgroup_quota_limits_threads(tmp_path: Path, files: dict[str, str], cpus: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    affinity = len(os.sched_getaffinity(0))
    assert _core._usable_cpus(str(tmp_path)) == (affinity if cpus is None else min(cpus, affinity))


@has_openmp
def test_threadpoolctl_sees_and_limits_the_threads() -> None:
    rf.set_num_threads(None)
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        assert rf.get_num_threads() == 1
    paths = [pool["filepath"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"]
    assert paths


def test_set_num_threads() -> None:
    rf.set_num_threads(5)
    assert rf.get_num_threads() == rf.info()["threads"] == 5


@linux
def test_small_work_stays_serial_and_large_work_does_not() -> None:
    code = """
        import os, numpy, rmsprop_fast as rf
        rf.set_num_threads(3)
        def threads_after(size):
            p = numpy.zeros(size, "f")
            state = rf.init(p)
            for _ in range(5):
                rf.step(p, numpy.ones(size, "f"), state)
            return len(os.listdir("/proc/self/task"))
        start = len(os.listdir("/proc/self/task"))
        print(threads_after(1000) - start, threads_after(10**6) - start)
    """
    assert run(code).stdout.split() == ["0", "2"]


@linux
def test_a_large_step_uses_one_thread_for_each_16_ki_elements() -> None:
    code = """
        import os, numpy, rmsprop_fast as rf
        rf.set_num_threads(8)
        p = numpy.zeros(SIZE, "f")
        start = len(os.listdir("/proc/self/task"))
        rf.step(p, p + 1, rf.init(p))
        print(1 + len(os.listdir("/proc/self/task")) - start)
    """
    for size, threads in ((2**15 - 1, 1), (2**15, 2), (5 * 2**14 + 7, 5), (2**20, 8)):
        assert int(run(code.replace("SIZE", str(size))).stdout) == threads


@linux
def test_threads_sleep_when_there_is_nothing_to_do() -> None:
    """OpenMP's would wait awake for milliseconds, on a CPU that other work needs."""
    code = """
        import time, numpy, rmsprop_fast as rf
        rf.set_num_threads(2)
        p = numpy.zeros(10**6, "f")
        state = rf.init(p)
        used = waited = 0.0
        for _ in range(100):
            rf.step(p, p + 1, state)
            start, start_used = time.perf_counter(), time.process_time()
            time.sleep(0.001)
            used += time.process_time() - start_used
            waited += time.perf_counter() - start
        print(used / waited)
    """
    assert float(run(code).stdout) < 0.5  # 0.03; with OpenMP's threads 1


def test_a_step_is_over_when_all_threads_are_done() -> None:
    """The last elements of the pieces are looked at at once; were a thread still at work, it would write them later."""
    code = """
        import numpy as np
        import rmsprop_fast as rf

        rf.set_num_threads(2)
        g = np.ones(2**18, "f")
        p, expected = np.zeros(2**18, "f"), np.zeros(1, "f")
        state, expected_state = rf.init(p), rf.init(expected)
        late = 0
        for _ in range(2000):
            rf.step(expected, g[:1], expected_state)
            rf.step(p, g, state)
            late += bool((p[8191::8192] != expected[0]).any())
        print(late)
    """
    assert int(run(code).stdout) == 0


@linux
def test_a_step_waits_for_no_thread_that_has_not_come() -> None:
    """The only worker is left nearly no time, on a CPU that a busy process has."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    code = """
        import os, statistics, subprocess, sys, time
        import numpy as np
        import rmsprop_fast as rf

        first, second, *_ = sorted(os.sched_getaffinity(0))
        p, g = np.zeros(300_000, "f"), np.ones(300_000, "f")
        state = rf.init(p)

        def seconds():
            start = time.perf_counter()
            rf.step(p, g, state)
            return time.perf_counter() - start

        before = set(os.listdir("/proc/self/task"))
        rf.set_num_threads(2)
        seconds()
        (worker,) = (int(task) for task in set(os.listdir("/proc/self/task")) - before)
        os.sched_setaffinity(0, {first})
        os.sched_setaffinity(worker, {second})
        os.sched_setscheduler(worker, os.SCHED_IDLE, os.sched_param(0))
        busy = subprocess.Popen(["taskset", "-c", str(second), sys.executable, "-c", "while True: pass"])
        time.sleep(0.3)
        starved = statistics.median(seconds() for _ in range(101))
        busy.kill()
        busy.wait()
        rf.set_num_threads(1)
        print(starved / statistics.median(seconds() for _ in range(101)))
    """
    assert float(run(code).stdout) < 3  # 1.0; some hundred if it waited


def test_a_loop_with_matrix_products_is_not_slowed_down_by_threads() -> None:
    """OpenBLAS's threads and ours need the same CPUs."""
    code = """
        import statistics, time
        import numpy as np
        import rmsprop_fast as rf

        w, x = np.zeros((400, 400), "f"), np.ones((400, 400), "f")
        state = rf.init(w)

        def seconds(threads):
            rf.set_num_threads(threads)
            start = time.perf_counter()
            for _ in range(30):
                rf.step(w, x @ w, state)
            return time.perf_counter() - start

        print(statistics.median(seconds(None) / seconds(1) for _ in range(15)))
    """
    assert float(run(code).stdout) < 2  # 1; with OpenMP's threads 10


@linux
def test_a_forked_child_never_hangs() -> None:
    code = """
        import os, sys, warnings, numpy, rmsprop_fast as rf
        warnings.simplefilter("ignore", DeprecationWarning)
        size = 10**6
        def step():
            p = numpy.zeros(size, "f")
            rf.step(p, numpy.ones(size, "f"), rf.init(p))
            return p.tobytes()
        rf.set_num_threads(2)
        in_parent = step()
        child = os.fork()
        if child == 0:
            same = step() == in_parent
            os._exit(0 if same and len(os.listdir("/proc/self/task")) == 2 else 1)  # it has threads of its own
        assert os.waitpid(child, 0)[1] == 0
        assert step() == in_parent
    """
    run(code)


# As any other library that uses OpenMP, in the process before us.
OTHER_LIBRARY = """
    int region(void) {
        int threads = 0;
        #pragma omp parallel num_threads(2) reduction(+ : threads)
        threads += 1;
        return threads;
    }
"""


@pytest.fixture(scope="module")
def other_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("other")
    (folder / "other.c").write_text(OTHER_LIBRARY)
    run_command("cc", "-fopenmp", "-shared", "-fPIC", "-o", folder / "other.so", folder / "other.c")
    return folder / "other.so"


@linux
@has_openmp
@pytest.mark.parametrize("front", ["arrays", "tensors"])
def test_a_child_that_was_forked_after_another_library_used_openmp_never_hangs(other_library: Path, front: str) -> None:
    code = """
        import ctypes, os, signal, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        IMPORTS
        assert ctypes.CDLL(os.environ["OTHER_LIBRARY"]).region() == 2
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            STEP
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    """
    imports, step = (
        "import numpy",
        "import rmsprop_fast as rf; p = numpy.zeros(10**6, 'f'); rf.step(p, p + 1, rf.init(p))",
    )
    if front == "tensors":
        pytest.importorskip("torch", reason="needs PyTorch")
        # Small ones, for which torch itself uses no threads: it would hang.
        imports = "import torch; params = [torch.nn.Parameter(torch.zeros(2**14)) for _ in range(64)]"
        step = "from rmsprop_fast.torch import RMSprop; torch.set_num_threads(2); "
        step += "[setattr(p, 'grad', torch.ones(2**14)) for p in params]; RMSprop(params).step()"
    code = code.replace("IMPORTS", imports).replace("STEP", step)
    run(code, OTHER_LIBRARY=str(other_library))


@linux
@has_openmp
@pytest.mark.parametrize(
    "variable", [{"OMP_PROC_BIND": "true"}, {"OMP_PLACES": "cores"}, {"GOMP_CPU_AFFINITY": "0-1"}], ids=str
)
def test_threads_that_openmp_binds(variable: dict[str, str]) -> None:
    """Loading OpenMP binds the thread that loads it to one CPU: no reason to take the step on one."""
    cpus = len(os.sched_getaffinity(0))
    code = """
        import os, numpy, rmsprop_fast as rf
        threads = rf.get_num_threads()
        p = numpy.zeros(10**6, "f")
        rf.step(p, p + 1, rf.init(p))
        tasks = {int(task) for task in os.listdir("/proc/self/task")} - {os.getpid()}
        print(threads, max(len(os.sched_getaffinity(task)) for task in tasks))
    """
    assert [int(word) for word in run(code, **variable).stdout.split()] == [cpus, cpus]


@linux
def test_a_thread_that_pins_itself_decides_for_itself_alone() -> None:
    cpus = len(os.sched_getaffinity(0))
    code = """
        import os, threading, rmsprop_fast as rf
        found = []
        def pinned():
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            found.append(rf.get_num_threads())
        thread = threading.Thread(target=pinned)
        thread.start()
        thread.join()
        print(*found, rf.get_num_threads())
    """
    assert [int(word) for word in run(code).stdout.split()] == [1, cpus]


@linux
@has_openmp
def test_the_thread_limit_of_openmp_counts() -> None:
    show = "import rmsprop_fast; print(rmsprop_fast.get_num_threads())"
    assert int(run(show, OMP_THREAD_LIMIT="1").stdout) == 1


@linux
@pytest.mark.parametrize("front", ["arrays", "tensors"])
def test_where_no_thread_can_be_created_a_step_is_serial(front: str) -> None:
    """Not even the stack of one more thread fits into the address space."""
    code = """
        import os, resource, numpy
        IMPORTS
        with open("/proc/self/statm") as pages:
            size = int(pages.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        STEP
        assert len(os.listdir("/proc/self/task")) == TASKS
        print("stepped")
    """
    arrays = "import rmsprop_fast as rf; p, g = numpy.zeros((2, 10**6), 'f'); state = rf.init(p); "
    arrays += "rf.set_num_threads(2); tasks = len(os.listdir('/proc/self/task'))"
    tensors = "import torch, rmsprop_fast as rf; from rmsprop_fast.torch import RMSprop; torch.set_num_threads(1); "
    tensors += "p = torch.nn.Parameter(torch.zeros(10**6)); p.grad = torch.zeros(10**6); optimizer = RMSprop([p]); "
    tensors += "rf.set_num_threads(1); optimizer.step(); rf.set_num_threads(2); torch.set_num_threads(2); "
    tensors += "tasks = len(os.listdir('/proc/self/task'))"
    if front == "tensors":
        pytest.importorskip("torch", reason="needs PyTorch")
    imports, step = (tensors, "optimizer.step()") if front == "tensors" else (arrays, "rf.step(p, g, state)")
    done = run(
        code.replace("IMPORTS", imports).replace("STEP", step).replace("TASKS", "tasks"), OPENBLAS_NUM_THREADS="1"
    )
    assert done.stdout.strip() == "stepped"


def test_other_threads_run_during_large_work() -> None:
    """A thread that counts gets on while a step of about 50 ms runs."""
    size = 16_000_000
    p, g = np.zeros(size, np.float32), np.ones(size, np.float32)
    state = rf.init(p)
    rf.set_num_threads(1)
    rf.step(p, g, state)
    counted, during = [0], [0]
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    counter = threading.Thread(target=count)
    counter.start()
    for _ in range(5):
        before = counted[0]
        rf.step(p, g, state)
        during[0] += counted[0] - before
    stop.set()
    counter.join()
    assert during[0] > 100


def test_steps_of_many_threads_at_once() -> None:
    """Each with its own state: same bits as alone."""
    size = 300_000
    g = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    rf.set_num_threads(2)

    def train(results: list[Any]) -> None:
        p = np.zeros(size, np.float32)
        state = rf.init(p)
        for _ in range(10):
            rf.step(p, g, state)
        results.append(p.tobytes())

    alone: list[Any] = []
    train(alone)
    together: list[Any] = []
    workers = [threading.Thread(target=train, args=(together,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert together == alone * 4


def test_a_daemon_thread_in_a_step_does_not_disturb_the_exit() -> None:
    code = """
        import threading, time, numpy, rmsprop_fast as rf
        p, g = numpy.zeros(10**7, "f"), numpy.ones(10**7, "f")
        state = rf.init(p)
        def work():
            while True:
                rf.step(p, g, state)
        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.2)
    """
    for _ in range(3):
        assert run(code).stderr == ""


@linux
def test_a_fork_during_a_step_leaves_a_state_that_says_so() -> None:
    code = """
        import os, threading, time, warnings, numpy, rmsprop_fast as rf
        warnings.simplefilter("ignore", DeprecationWarning)
        p, g = numpy.zeros(3 * 10**7, "f"), numpy.ones(3 * 10**7, "f")
        state = rf.init(p)
        threading.Thread(target=lambda: [rf.step(p, g, state) for _ in range(3)]).start()
        while True:
            try:
                state.lr = 0.01
                time.sleep(0.001)
            except RuntimeError:
                break
        child = os.fork()
        if child == 0:
            try:
                rf.step(p, g, state)
            except RuntimeError as error:
                os._exit(0 if "was when this process was forked" in str(error) else 2)
            os._exit(3)
        assert os.waitpid(child, 0)[1] == 0
    """
    run(code)
