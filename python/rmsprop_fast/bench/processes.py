"""Measurements in a new Python, which has loaded nothing else yet."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmsprop_fast.bench.peers import OURS
from rmsprop_fast.bench.problems import LARGE

if TYPE_CHECKING:
    from rmsprop_fast.bench.peers import Peer

TIMEOUT = 120  # seconds, for a peer's import and some steps


@dataclass
class Fresh:
    """Seconds of a peer's import and first step, bytes that a step needed for each element, and the process in all."""

    name: str
    seconds: float
    extra: float | None = None
    peak: float | None = None


def run_python(*arguments: str, timeout: float) -> Any:
    """Return what a new Python prints as its last line, which is JSON.

    Raises RuntimeError with the last line of what went wrong, and TimeoutError.
    """
    try:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"no result within {timeout:g} s") from None
    if done.returncode != 0:
        raise RuntimeError((done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def measure_fresh(peer: Peer, quick: bool) -> Fresh:
    """Measure import and first step, and what memory a step needs."""
    script = str(Path(__file__).with_name("fresh.py"))
    has_memory = os.access("/proc/self/clear_refs", os.W_OK)
    repeats = 1 if quick or peer.compiles_long else 9 if peer.name == OURS else 3
    elements = [LARGE if has_memory else 0] + [0] * (repeats - 1)
    runs = [run_python(script, peer.name, str(count), timeout=TIMEOUT) for count in elements]
    return Fresh(peer.name, **{**runs[0], "seconds": statistics.median(run["seconds"] for run in runs)})
