from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

# Tests use more threads than there are CPUs: those that wait must not keep the others from their work. OpenMP reads
# this when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest

import rmsprop_fast as rf
from rmsprop_fast import _core

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_report_header() -> str:
    return f"rmsprop_fast: {rf.info()}"


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    """Give every test the kernel, thread count and thresholds that a fresh process has, and torch a seed."""
    kernel, share = rf.get_kernel(), _core._share()
    torch = sys.modules.get("torch")  # which its tests have imported
    torch_threads = torch.get_num_threads() if torch else 0
    if torch:
        torch.manual_seed(0)
    yield
    rf.set_kernel(kernel)
    rf.set_num_threads(None)
    _core._set_share(share)
    if torch:
        torch.set_num_threads(torch_threads)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With RMSPROP_FAST_FORBID_SKIPS (the second run in CI), a skipped test fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("RMSPROP_FAST_FORBID_SKIPS") and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("skipped tests are forbidden in this run", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
