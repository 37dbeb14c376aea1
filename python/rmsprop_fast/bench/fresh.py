"""What a peer costs a new process: python fresh.py NAME ELEMENTS, which prints JSON.

That is how long its import and first step took, of 64 elements, and how much memory a later step of so many elements
needed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from types import ModuleType
from typing import Any

import numpy as np


def main(name: str, elements: int) -> None:
    from rmsprop_fast.bench.peers import PEERS
    from rmsprop_fast.bench.steps import INITIAL_S, Problem

    (peer,) = (peer for peer in PEERS if peer.name == name)

    def prepare(elements: int) -> tuple[Any, dict[str, Any]]:
        p, g, s = ([np.full(elements, number, np.float32)] for number in (1, 0.5, INITIAL_S))
        step = peer.prepare(Problem(p, g, s))
        return compile(step.statement, name, "exec"), step.names

    assert "rmsprop_fast" not in sys.modules
    start = time.perf_counter()
    exec(*prepare(64))
    result: dict[str, float] = {"seconds": time.perf_counter() - start}
    if elements:
        code, names = prepare(elements)
        for _ in range(2):
            exec(code, names)
        with contextlib.suppress(OSError, StopIteration):  # where there is no such thing
            with open("/proc/self/clear_refs", "w") as references:
                references.write("5")  # the peak begins anew
            before = _memory("VmRSS:")
            exec(code, names)
            peak = _memory("VmHWM:")
            result |= {"peak": peak, "extra": max(0, peak - before) / elements}
    print(json.dumps(result))


def _memory(key: str) -> int:
    """Return a line of this process's status, in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))


if __name__ == "__main__":
    # A stand-in for the package: importing from this folder does not import rmsprop_fast before the clock starts.
    bench = sys.modules["rmsprop_fast.bench"] = ModuleType("rmsprop_fast.bench")
    bench.__path__ = [sys.path.pop(0)]
    main(sys.argv[1], int(sys.argv[2]))
