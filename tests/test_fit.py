"""The main job: python -m rmsprop_fast fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

import rmsprop_fast as rf
from rmsprop_fast.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# https://www.itl.nist.gov/div898/strd/lls/data/LINKS/v-Norris.shtml
NORRIS = {"intercept": -0.262323073774029, "slope": 1.00211681802045, "residual_std": 0.884796396144373}


def fit_json(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    assert main(["fit", "--json", *map(str, arguments)]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def refusal(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """Return the one line on stderr of a command that ends with exit code 2."""
    try:
        code: Any = main(list(map(str, arguments)))
    except SystemExit as leaving:  # argparse
        code = leaving.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    return line


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_shipped_data_come_out_at_the_certified_values(capsys: pytest.CaptureFixture[str]) -> None:
    result = fit_json(capsys)
    assert list(result) == [
        *("intercept", "coefficients", "least_squares", "r2", "residual_std", "epochs", "seconds", "converged")
    ]
    assert result["intercept"] == pytest.approx(NORRIS["intercept"], rel=1e-6)
    assert result["coefficients"] == {"x": pytest.approx(NORRIS["slope"], rel=1e-6)}
    assert result["residual_std"] == pytest.approx(NORRIS["residual_std"], rel=1e-6)
    assert result["r2"] == pytest.approx(0.999993745883712, rel=1e-9)  # certified, too
    assert result["least_squares"]["intercept"] == pytest.approx(NORRIS["intercept"], rel=1e-9)
    assert result["least_squares"]["coefficients"] == {"x": pytest.approx(NORRIS["slope"], rel=1e-12)}
    assert result["converged"] is True
    assert result["seconds"] < 5


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_start_weights_do_not_matter(capsys: pytest.CaptureFixture[str], seed: int) -> None:
    result = fit_json(capsys, "--seed", seed)
    assert result["intercept"] == pytest.approx(NORRIS["intercept"], rel=1e-6)


def test_diabetes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = load_diabetes(scaled=False)
    rows = [",".join([*data.feature_names, "progression"])]
    rows += [",".join(map(repr, [*x.tolist(), y])) for x, y in zip(data.data, data.target.tolist(), strict=True)]
    result = fit_json(capsys, write(tmp_path / "diabetes.csv", "\n".join(rows)))
    ones = np.ones((len(data.target), 1))
    exact = np.linalg.lstsq(np.hstack([ones, data.data]), data.target, rcond=None)[0]
    assert result["intercept"] == pytest.approx(exact[0], rel=1e-4)
    assert list(result["coefficients"]) == data.feature_names
    np.testing.assert_allclose(list(result["coefficients"].values()), exact[1:], rtol=1e-4)
    np.testing.assert_allclose(list(result["least_squares"]["coefficients"].values()), exact[1:], rtol=1e-8)
    assert result["converged"] is True


def test_every_update_is_a_step_of_the_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["rmsprop_fast.fit"]
    steps = 0

    def counting_step(params: Any, grads: Any, state: Any) -> None:
        nonlocal steps
        steps += 1
        rf.step(params, grads, state)

    monkeypatch.setattr(module, "step", counting_step)
    assert fit_json(capsys, "--epochs", 7)["epochs"] == steps == 7
    steps = 0
    fit_json(capsys, "--epochs", 5, "--batch-size", 10)
    assert steps == 5 * 4  # 36 rows: 10, 10, 10, 6


def test_batches_come_near(capsys: pytest.CaptureFixture[str]) -> None:
    result = fit_json(capsys, "--batch-size", 9, "--epochs", 3000)
    assert result["coefficients"]["x"] == pytest.approx(NORRIS["slope"], rel=1e-3)
    assert result["epochs"] == 3000
    assert result["converged"] is False  # near, but not there


def test_target_and_features_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(
        tmp_path / "data.csv", "a,note,y,b\n1,x,6,9\n2,y,7,1\n3,z,12,4\n4,,11,1\n5,w,16,3\n"
    )  # a BOM-less header
    result = fit_json(capsys, path, "--target", "y", "--features", "b, a")
    assert list(result["coefficients"]) == ["b", "a"]
    flipped = fit_json(capsys, path, "--target", "a", "--features", "y")
    assert list(flipped["coefficients"]) == ["y"]


def test_as_many_rows_as_columns_leave_no_residual(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = fit_json(capsys, write(tmp_path / "data.csv", "x,y\n1,2\n2,4\n"))
    assert result["residual_std"] is None
    assert result["intercept"] == pytest.approx(0, abs=1e-9)
    assert main(["fit", str(tmp_path / "data.csv")]) == 0
    assert "none" in capsys.readouterr().out


@pytest.mark.parametrize("scale", [1e-200, 1e-5, 1e5, 1e200])
def test_any_units(capsys: pytest.CaptureFixture[str], tmp_path: Path, scale: float) -> None:
    rows = "".join(f"{x * scale!r},{3 * x + (x % 2)!r}\n" for x in range(10))
    result = fit_json(capsys, write(tmp_path / "data.csv", "x,y\n" + rows))
    exact = np.polynomial.Polynomial.fit(range(10), [3 * x + (x % 2) for x in range(10)], 1).convert().coef
    assert result["coefficients"]["x"] * scale == pytest.approx(exact[1], rel=1e-6)
    assert result["intercept"] == pytest.approx(exact[0], rel=1e-6)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit"]) == 0
    out = capsys.readouterr().out
    for part in (
        "intercept",
        "-0.26232307",
        "1.0021168180",
        "least squares",
        "R2",
        "0.99999374",
        "0.8847963",
        "epochs",
    ):
        assert part in out


def test_columns_far_from_zero(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", "x,y\n1e16,1\n10000000000000002,2\n10000000000000004,4\n10000000000000006,5\n")
    result = fit_json(capsys, path)
    assert result["coefficients"]["x"] == pytest.approx(0.7, rel=1e-6)
    assert result["least_squares"]["coefficients"]["x"] == pytest.approx(0.7, rel=1e-12)
    flipped = fit_json(capsys, path, "--target", "x")
    assert flipped["r2"] == pytest.approx(0.98, rel=1e-6)


@pytest.mark.parametrize("name", ["line.png", "plane.png"])
def test_the_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    data = write(tmp_path / "data.csv", "x,z,$\\y$\n1,5,2\n2,3,4\n3,4,5\n4,9,9\n5,1,9\n")
    features = ["--features", "x"] if name == "line.png" else []
    fit_json(capsys, data, *features, "--plot", tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


GOOD = "x,y\n1,2\n2,4\n3,7\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, [], "data.csv: No such file or directory"),
        ("", [], "data.csv: expected a header row and data, got an empty file"),
        ("\n\n", [], "data.csv: expected a header row and data, got an empty file"),
        ("x,y\n", [], "data: expected at least as many rows as columns (2), got 0"),
        ("x,z,y\n1,2,3\n2,1,3\n", [], "data: expected at least as many rows as columns (3), got 2"),
        ("1,2\n2,4\n3,7\n", [], "data.csv: expected a header row with column names, got the numbers 1, 2"),
        ("x,x,y\n1,2,3\n", [], "data.csv: expected columns of different names, got x, x, y"),
        (
            "y\n1\n2\n",
            [],
            "data.csv: expected a feature column beside the target 'y', got none (commas separate columns)",
        ),
        (GOOD, ["--target", "z"], "data.csv: expected one of the columns x, y, got 'z'"),
        (GOOD, ["--features", "x,w"], "data.csv: expected one of the columns x, y, got 'w'"),
        (GOOD, ["--features", ""], "data.csv: expected one of the columns x, y, got ''"),
        (GOOD, ["--features", "x,y"], "--features: expected columns other than the target, got 'y'"),
        (GOOD, ["--features", "x,x"], "--features: expected each column once, got x, x"),
        (GOOD + "four,5\n", [], "data.csv: row 4 (line 5), column 'x': expected a finite number, got 'four'"),
        ("x,y\n1,2\n\n2,nan\n", [], "data.csv: row 2 (line 4), column 'y': expected a finite number, got 'nan'"),
        ("x,y\n1,2\ninf,1\n", [], "data.csv: row 2 (line 3), column 'x': expected a finite number, got 'inf'"),
        ("x,y\n1,2\n,1\n", [], "data.csv: row 2 (line 3), column 'x': expected a finite number, got ''"),
        ("x,y\n1,2\n2\n", [], "data.csv: row 2 (line 3): expected 2 columns, got 1"),
        ("x,y\n1,2\n2,2\n3,2\n", [], "target 'y': expected different values, got a constant column of 2"),
        ("x,y\n5,2\n5,3\n5,4\n", [], "feature 'x': expected different values, got a constant column of 5"),
        (
            "a,b,y\n1,2,1\n2,4,5\n3,6,2\n4,8,8\n",
            [],
            "feature 'b': expected one of its own, got a linear combination of 'a'",
        ),
        (
            "x,y\n1e308,1\n1.7e308,2\n-1.7e308,3\n1.6e308,4\n",
            [],
            "feature 'x': expected values whose sum is a finite number",
        ),
        (
            "x,y\n1e-200,1e200\n2e-200,3e200\n3e-200,4e200\n",
            [],
            "data: expected units in which the coefficients are finite",
        ),
        (GOOD, ["--lr", "-1"], "lr: expected a finite number of at least 0, got -1.0"),
        (GOOD, ["--rho", "2"], "rho: expected a number from 0 to 1, got 2.0"),
        (GOOD, ["--eps", "nan"], "eps: expected a finite number of at least 0, got nan"),
        (GOOD, ["--lr", "1e200"], "the fit diverged: loss not finite after"),
        (GOOD, ["--lr", "1e6", "--epochs", "3"], "the fit diverged: loss"),
        (GOOD, ["--plot", "no/such/folder/plot.png"], "--plot: expected a file in an existing folder"),
        (GOOD, ["--plot", "plot.nonsense"], "--plot: "),
        (GOOD, ["--epochs", "0"], "argument --epochs: expected a whole number of at least 1, got '0'"),
        (GOOD, ["--batch-size", "x"], "argument --batch-size: expected a whole number of at least 1, got 'x'"),
        (GOOD, ["--seed", "-1"], "argument --seed: expected a whole number of at least 0, got '-1'"),
        (GOOD, ["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_input_gets_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        write(tmp_path / "data.csv", text)
    line = refusal(capsys, "fit", "data.csv", *options)
    assert line.startswith("rmsprop-fast")
    assert message in line


@pytest.mark.parametrize("content", [b"x,y\n\xff\xfe,1\n", b"\x00\x01\x02" * 100])
def test_files_that_are_no_text(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.csv").write_bytes(content)
    assert "data.csv: expected" in refusal(capsys, "fit", tmp_path / "data.csv")
    assert "Is a directory" in refusal(capsys, "fit", tmp_path)


def test_a_bare_installation_says_what_is_missing(tmp_path: Path) -> None:
    code = """if True:
        import sys
        sys.modules["rich"] = None
        from rmsprop_fast.__main__ import main
        sys.exit(main(sys.argv[1:]))
    """
    result = subprocess.run([sys.executable, "-c", code, "fit"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "pip install 'rmsprop_fast[cli]'" in result.stderr


@pytest.mark.parametrize("name", ["full.png", "full.pdf"])
def test_a_plot_that_does_not_fit_on_the_disk(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    command = [sys.executable, "-m", "rmsprop_fast", "fit", "--plot", str(tmp_path / name)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "rmsprop-fast: --plot: [Errno 28] No space left on device\n"


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


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [
        *((command, "") for command in ("fit", "fit --json", "info", "family keras", "--help", "fit -h", "--version")),
        ("fit", "1"),
        ("--help", "1"),
    ],
)
@nowhere
def test_a_stdout_that_cannot_be_written_ends_in_no_traceback(
    command: str, unbuffered: str, stdout: Callable[[], int], ending: tuple[int, str]
) -> None:
    """Unbuffered, the error comes at the write; else at the flush."""
    assert ending_of(stdout, "-m", "rmsprop_fast", *command.split(), unbuffered=unbuffered) == ending


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
