"""Measurements in a new Python, which has loaded nothing else yet."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


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
