"""The command line: its ways to be called, and a stdout that cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import rmsprop_fast as rf
from rmsprop_fast.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def into_a_closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def into_a_full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


nowhere = pytest.mark.parametrize(
    ("stdout", "ending"),
    [(into_a_closed_pipe, (1, "")), (into_a_full_disk, (1, "rmsprop-fast: stdout: No space left on device\n"))],
)


def ending_of(stdout: Callable[[], int], *command: str, unbuffered: str = "") -> tuple[int, str]:
    """Return exit code and stderr of a Python command that prints to a new file descriptor."""
    descriptor = stdout()
    try:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        result = subprocess.run(
            [sys.executable, *command],
            stdout=descriptor,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            check=False,
        )
    finally:
        os.close(descriptor)
    return result.returncode, result.stderr


COMMANDS = ("fit", "fit --json", "predict m.json data.csv", "info", "family keras", "--help", "fit -h", "--version")


@pytest.mark.parametrize(
    ("command", "unbuffered"), [*((command, "") for command in COMMANDS), ("fit", "1"), ("--help", "1")]
)
@nowhere
def test_a_stdout_that_cannot_be_written_ends_in_no_traceback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    unbuffered: str,
    stdout: Callable[[], int],
    ending: tuple[int, str],
) -> None:
    """Unbuffered, the error comes at the write; else at the flush."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text("x,y\n1,2\n2,4\n3,7\n")
    rf.fit([1.0, 2.0, 3.0], [2.0, 4.0, 7.0]).save(tmp_path / "m.json")
    assert ending_of(stdout, "-m", "rmsprop_fast", *command.split(), unbuffered=unbuffered) == ending


@pytest.mark.parametrize("command", ["fit data.csv", "predict m.json data.csv"])
def test_a_stdout_without_unicode(tmp_path: Path, command: str) -> None:
    (tmp_path / "data.csv").write_text("x,größe\n1,2\n2,4\n3,7\n", encoding="utf-8")
    rf.fit([1.0, 2.0, 3.0], [2.0, 4.0, 7.0], target_name="größe").save(tmp_path / "m.json")
    result = subprocess.run(
        [sys.executable, "-m", "rmsprop_fast", *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith(r"gr\xf6\xdfe")


@nowhere
def test_bench_writes_its_files_when_nobody_reads_stdout(
    tmp_path: Path, stdout: Callable[[], int], ending: tuple[int, str]
) -> None:
    code = """if True:
        import sys
        from rmsprop_fast.__main__ import main
        from rmsprop_fast.bench.suite import Suite
        Suite.tasks = lambda self: ()
        sys.exit(main(["bench", *sys.argv[1:]]))
    """
    output, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    assert ending_of(stdout, "-c", code, "--json", str(output), "--plot", str(picture)) == ending
    assert json.loads(output.read_text())["cases"] == []
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_as_a_command_and_as_a_module() -> None:
    module = subprocess.run([sys.executable, "-m", "rmsprop_fast", "info"], capture_output=True, text=True, check=True)
    assert f"version:   {rf.__version__}" in module.stdout
    assert f"kernels:   {' '.join(rf.kernels())}" in module.stdout
    result = subprocess.run(
        [sys.executable, "-m", "rmsprop_fast", "fit", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout)["converged"]  # nothing but JSON on stdout
    from importlib.metadata import entry_points

    (command,) = (entry for entry in entry_points(group="console_scripts") if entry.name == "rmsprop-fast")
    assert command.load() is main
