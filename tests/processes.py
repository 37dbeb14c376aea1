"""Code and commands in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

Process = subprocess.CompletedProcess[str]


def run(code: str, **environment: str) -> Process:
    """Run Python code in a fresh interpreter, as a command."""
    return run_command(sys.executable, "-c", textwrap.dedent(code), timeout=120, **environment)


def run_command(*command: str | Path, timeout: float = 900, **environment: str) -> Process:
    """Run a command without this test run's OpenMP and kernel settings; if it fails, raise with all that it wrote."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "RMSPROP_FAST_"))}
    process = subprocess.run(
        command, env={**clean, **environment}, capture_output=True, text=True, timeout=timeout, check=False
    )
    if process.returncode != 0:
        raise AssertionError(f"{command}: status {process.returncode}\n{process.stdout}\n{process.stderr}")
    return process
