"""How exact `rmsprop_fast.fit` is, and what the command needs for a large file: python benchmarks/fit.py"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import rmsprop_fast as rf

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the problems are those of the tests
from regression_problems import NIST, OTHERS, exact


def print_errors() -> None:
    """Print the largest relative error of a coefficient, beside that of NumPy's least squares."""
    problems = {name: (problem.features, problem.target, problem.coefficients) for name, problem in NIST.items()}
    problems |= {name: (features, target, exact(features, target)) for name, (features, target) in OTHERS.items()}
    print("| data | condition number | `fit` | `numpy.linalg.lstsq` on the columns as they are |\n| --- | --- | --- | --- |")
    for name, (features, target, known) in problems.items():
        model = rf.fit(features, target)
        plain = np.linalg.lstsq(np.column_stack([np.ones(len(target)), features]), target, rcond=None)[0]
        errors = [np.abs(found / known - 1).max() for found in ([model.intercept, *model.coefficients], plain)]
        print(f"| {name} | {model.condition_number:.2g} | {errors[0]:.0e} | {errors[1]:.0e} |")


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Return seconds and peak memory, in MB, of a command."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e6


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
        without = "import sys; sys.modules['pyarrow'] = None; from rmsprop_fast.__main__ import main; sys.exit(main())"
        for name, how in (("pyarrow", ["-m", "rmsprop_fast"]), ("csv", ["-c", without])):
            _, least = measured([*how, "fit"])
            seconds, most = measured([*how, "fit", str(path)])
            print(f"{name}: {seconds:.1f} s, {most - least:.0f} MB more than for Norris, {(most - least) / data:.2f} x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    print_errors()
    print_large_file(rows)
