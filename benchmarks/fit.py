"""How exact `rmsprop_fast.fit` is, and what the command needs for a large file: python benchmarks/fit.py"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import rmsprop_fast as rf

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the problems are those of the tests
from regression_problems import NIST, OTHERS, exact


def print_errors() -> None:
    """Print the largest relative error of a coefficient, beside that of NumPy's least squares."""
    problems = {name: (problem.features, problem.target, problem.coefficients) for name, problem in NIST.items()}
    problems |= {name: (features, target, exact(features, target)) for name, (features, target) in OTHERS.items()}
    print(
        "| data | condition number | `fit` | `numpy.linalg.lstsq` on the columns as they are |",
        "| --- | --- | --- | --- |",
        sep="\n",
    )
    for name, (features, target, known) in problems.items():
        model = rf.fit(features, target)
        plain = np.linalg.lstsq(np.column_stack([np.ones(len(target)), features]), target, rcond=None)[0]
        errors = [
            np.abs(found / known - 1).max() for found in (np.array([model.intercept, *model.coefficients]), plain)
        ]
        print(f"| {name} | {model.condition_number:.2g} | {errors[0]:.0e} | {errors[1]:.0e} |")


# Linux's peak of a process, as what `getrusage` has includes that of the process which started it.
COMMAND = """
import sys
if not {pyarrow}:
    sys.modules["pyarrow"] = None
from rmsprop_fast.__main__ import main
main(sys.argv[1:])
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak, file=sys.stderr)
"""


def measured(pyarrow: bool, *arguments: str) -> tuple[float, float]:
    """Return seconds and peak memory, in MB, of the command fit."""
    command = [sys.executable, "-c", COMMAND.format(pyarrow=pyarrow), "fit", *arguments]
    started = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, int(result.stderr) * 1024 / 1e6


def print_large_file(rows: int) -> None:
    """Print time and memory of a fit of 10 features, written with all their digits."""
    random = np.random.default_rng(0)
    columns = random.standard_normal((rows, 11))
    columns[:, -1] = columns @ np.arange(11) + 3
    data = columns.nbytes / 1e6
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.csv"
        np.savetxt(path, columns, fmt="%.17g", delimiter=",", comments="", header=",".join([*"abcdefghijy"]))
        size = path.stat().st_size / 1e6
        del columns
        print(f"\n{rows:,} rows, 10 features and a target: a file of {size:.0f} MB, {data:.0f} MB of numbers")
        for pyarrow in (True, False):
            _, least = measured(pyarrow)
            seconds, most = measured(pyarrow, str(path))
            name = "pyarrow" if pyarrow else "csv"
            print(f"{name}: {seconds:.1f} s, {most - least:.0f} MB more than for Norris, {(most - least) / data:.2f} x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    print_errors()
    print_large_file(rows)
