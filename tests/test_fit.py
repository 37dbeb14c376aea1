"""The main job: python -m rmsprop_fast fit, and predict."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

import regression_problems
import rmsprop_fast as rf
from rmsprop_fast.__main__ import main


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a command."""
    try:
        code: Any = main(list(map(str, arguments)))
    except SystemExit as leaving:  # argparse
        code = leaving.code
    out, err = capsys.readouterr()
    return code, out, err


def fit_json(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """Return what a fit that converges prints with --json."""
    code, out, err = run(capsys, "fit", "--json", *arguments)
    assert (code, err) == (0, "")
    result: dict[str, Any] = json.loads(out)
    return result


def refusal(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """Return the one line on stderr of a command that ends with exit code 2."""
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    return line


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


GOOD = "x,y\n1,2\n2,4\n3,7\n4,8\n"


def test_the_shipped_data_come_out_at_the_certified_values(capsys: pytest.CaptureFixture[str]) -> None:
    result = fit_json(capsys)
    assert list(result) == [
        *("target", "intercept", "coefficients", "standard_errors", "least_squares", "r2", "residual_std"),
        *("condition_number", "rows", "epochs", "seconds", "converged", "warnings", "dropped"),
    ]
    assert result["intercept"] == pytest.approx(regression_problems.NORRIS["intercept"], rel=1e-9)
    assert result["coefficients"] == {"x": pytest.approx(regression_problems.NORRIS["slope"], rel=1e-9)}
    assert result["standard_errors"] == {
        "intercept": pytest.approx(regression_problems.NORRIS["intercept_error"], rel=1e-9),
        "coefficients": {"x": pytest.approx(regression_problems.NORRIS["slope_error"], rel=1e-9)},
    }
    assert result["residual_std"] == pytest.approx(regression_problems.NORRIS["residual_std"], rel=1e-9)
    assert result["r2"] == pytest.approx(regression_problems.NORRIS["r2"], rel=1e-12)
    assert result["least_squares"]["intercept"] == pytest.approx(regression_problems.NORRIS["intercept"], rel=1e-9)
    assert result["least_squares"]["coefficients"] == {
        "x": pytest.approx(regression_problems.NORRIS["slope"], rel=1e-9)
    }
    assert (result["rows"], result["dropped"], result["converged"], result["warnings"]) == (36, 0, True, [])
    assert result["seconds"] < 5


def test_a_table_of_many_columns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = load_diabetes(scaled=False)
    rows = [",".join([*data.feature_names, "progression"])]
    rows += [",".join(map(repr, [*x.tolist(), y])) for x, y in zip(data.data, data.target.tolist(), strict=True)]
    path = write(tmp_path / "diabetes.csv", "\n".join(rows))
    result = fit_json(capsys, path)
    model = rf.fit(data.data, data.target, feature_names=data.feature_names, target_name="progression")
    assert {**result, "seconds": 0} == {**model.as_dict(), "seconds": 0, "dropped": 0}
    packed = tmp_path / "diabetes.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert fit_json(capsys, packed)["coefficients"] == result["coefficients"]


def test_the_options_of_the_fit_arrive(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    problem = regression_problems.NIST["Longley"]
    rows = [["p", "g", "u", "a", "n", "year", "y"], *np.column_stack([problem.features, problem.target]).tolist()]
    path = write(tmp_path / "longley.csv", "\n".join(";".join(map(str, row)) for row in rows))
    given = ["--separator", ";", "--lr", 0.1, "--rho", 0.9, "--eps", 1e-3, "--epochs", 30, "--batch-size", 5]
    _, out, _ = run(capsys, "fit", path, *given, "--seed", 7, "--json")
    with pytest.warns(RuntimeWarning, match="converge"):
        model = rf.fit(problem.features, problem.target, lr=0.1, rho=0.9, eps=1e-3, epochs=30, batch_size=5, seed=7)
    assert list(json.loads(out)["coefficients"].values()) == model.coefficients.tolist()


def test_target_and_features_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = 'a,note,y,"b, c"\n1,x,6,9\n2,y,7,1\n3,z,12,4\n4,,11,1\n5,w,16,3\n'
    path = write(tmp_path / "data.csv", text)
    result = fit_json(capsys, path, "--target", "y", "--features", '"b, c", a')
    assert list(result["coefficients"]) == ["b, c", "a"]
    flipped = fit_json(capsys, path, "--target", "a", "--features", "y")
    assert list(flipped["coefficients"]) == ["y"]


def test_stdin_and_rows_without_a_value() -> None:
    def fit_stdin(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rmsprop_fast", "fit", "-", *options]
        return subprocess.run(command, input=GOOD + "5,NA\n", capture_output=True, text=True, check=False)

    refused = fit_stdin()
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("rmsprop-fast: stdin: row 5 (line 6), column 'y': expected a finite number")
    result = json.loads(fit_stdin("--missing", "drop", "--json").stdout)
    assert (result["rows"], result["dropped"]) == (4, 1)
    assert "4 rows (1 left out, for missing values)" in fit_stdin("--missing", "drop").stdout


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "fit")
    assert (code, err) == (0, "")
    lines = [" ".join(line.strip("│ ").replace("│", " ").split()) for line in out.splitlines()]
    assert "y, 36 rows" in lines
    headers = next(line for line in out.splitlines() if "RMSprop" in line)
    assert headers.index("RMSprop") < headers.index("standard error") < headers.index("least squares")
    assert any(line.startswith("intercept -0.2623230737") and " 0.232818 " in line for line in lines)
    assert any(line.startswith("x 1.00211681802 0.000429797 1.00211681802") for line in lines)
    assert any(line.startswith("R2 0.9999937458") for line in lines)
    assert any(line.startswith("residual std 0.8847963961") for line in lines)
    assert any(line.startswith("converged after ") for line in lines)


def test_a_narrow_terminal_cuts_no_digits_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert "-0.262323073774 " in run(capsys, "fit")[1]


def test_without_degrees_of_freedom_there_are_no_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", "x,y\n1,2\n2,4\n")
    assert fit_json(capsys, path)["residual_std"] is None
    assert run(capsys, "fit", path)[1].count("none") == 3


def test_a_fit_that_does_not_converge_says_so_first_and_exits_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    warning = "the fit did not converge in 7 epochs; try more epochs, or lr and rho nearer to 1"
    code, out, err = run(capsys, "fit", "--epochs", 7)
    assert (code, err) == (3, f"rmsprop-fast: {warning}\n")
    assert "not converged after 7 epochs" in out
    code, out, err = run(capsys, "fit", "--epochs", 7, "--json")
    assert (code, err) == (3, f"rmsprop-fast: {warning}\n")
    result = json.loads(out)
    assert (result["converged"], result["warnings"]) == (False, [warning])


def test_what_double_precision_cannot_give_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [[*(x**k for k in range(1, 12)), np.cos(x)] for x in np.linspace(-9, -3, 82).tolist()]
    text = "\n".join(",".join(map(str, row)) for row in [[*"abcdefghijky"], *rows])
    code, _, err = run(capsys, "fit", write(tmp_path / "data.csv", text))
    assert code == 0
    assert err.startswith("rmsprop-fast: the features are nearly collinear (condition number ")


@pytest.mark.parametrize("features", ["x", "x,z"])
def test_the_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path, features: str) -> None:
    data = write(tmp_path / "data.csv", "x,z,$\\y$\n1,5,2\n2,3,4\n3,4,5\n4,9,9\n5,1,9\n")
    fit_json(capsys, data, "--features", features, "--plot", tmp_path / "fit.png")
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_the_panels_of_the_picture() -> None:
    from rmsprop_fast.regression.picture import MOST_POINTS, draw

    def titles(features: Any, target: Any) -> list[list[str]]:
        figure = draw(rf.fit(features, target), features, target)
        return [[axes.get_title(), axes.get_xlabel(), axes.get_ylabel()] for axes in figure.axes[:3]]

    random = np.random.default_rng(0)
    x = random.standard_normal((MOST_POINTS + 1, 2))
    y = 2 * x[:, 0] + 3 + random.standard_normal(len(x))
    line, residuals, loss = titles(x[:50, :1], y[:50])
    assert line[1:] == ["x", "y"]
    assert line[0].startswith("y = 3.") or line[0].startswith("y = 2.")
    assert residuals[1:] == ["y, fitted", "residual: measured - fitted"]
    assert loss[1:] == ["epoch (pass over the data)", "share of the variance not explained"]
    for rows in (50, len(x)):
        plane = titles(x[:rows], y[:rows])[0]
        assert plane[1:] == ["y, fitted", "y, measured"]
        assert plane[0].startswith(f"{rows:,} rows, 2 features, R² = 0.")


def test_names_in_the_picture_stay_within_their_panel() -> None:
    from rmsprop_fast.regression.picture import LONGEST_LINE, draw

    x, y = np.arange(9.0), np.arange(9.0) % 4
    model = rf.fit(x, y, feature_names=["in\nlines " + "m" * 99], target_name="weight of everything in the box, kg")
    first, second, _ = draw(model, x[:, np.newaxis], y).axes
    assert first.get_xlabel().startswith("in lines mmm")
    for axes in (first, second):
        assert max(map(len, axes.get_title().splitlines())) <= LONGEST_LINE


@pytest.mark.parametrize(("share", "scale"), [(1.0, "log"), (0.0, "linear")])
def test_the_axis_of_the_loss_has_ticks(share: float, scale: str) -> None:
    from rmsprop_fast.regression.picture import draw

    x, noise = np.random.default_rng(0).standard_normal((2, 99))
    y = share * x + 0.1 * noise
    figure = draw(rf.fit(x, y), x[:, np.newaxis], y)
    assert figure.axes[2].get_yscale() == scale


def test_predict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = write(tmp_path / "data.csv", "a,b,y\n1,5,2\n2,3,4\n3,4,5\n4,9,9\n5,1,9\n")
    fit_json(capsys, data, "--save", tmp_path / "model.json")
    new = write(tmp_path / "new.csv", "b,note,a\n5,hello,1\n3,,2\n")
    code, out, err = run(capsys, "predict", tmp_path / "model.json", new)
    assert (code, err) == (0, "")
    header, *rows = csv.reader(io.StringIO(out))
    model = rf.LinearModel.load(tmp_path / "model.json")
    assert header == ["y"]
    assert [float(value) for (value,) in rows] == model.predict([[1.0, 5.0], [2.0, 3.0]]).tolist()
    assert "expected one of the columns" in refusal(
        capsys, "predict", tmp_path / "model.json", write(tmp_path / "other.csv", "a,c\n1,2\n")
    )
    gap = write(tmp_path / "gap.csv", "a,b\n1,\n1,5\n")
    assert "row 1 (line 2), column 'b'" in refusal(capsys, "predict", tmp_path / "model.json", gap)
    code, out, err = run(capsys, "predict", tmp_path / "model.json", gap, "--missing", "drop")
    assert (code, out.splitlines()) == (0, ["y", rows[0][0]])
    assert err == "rmsprop-fast: no prediction for rows that lack a value: 1\n"
    assert "expected a saved model" in refusal(capsys, "predict", data, new)
    assert "No such file" in refusal(capsys, "predict", tmp_path / "none.json", new)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "z"], "data.csv: expected one of the columns x, y, got 'z'"),
        (["--features", "x,w"], "data.csv: expected one of the columns x, y, got 'w'"),
        (["--features", '"x'], "--features: expected names with commas between"),
        (["--separator", "ab"], "--separator: expected one character"),
        (["--missing", "ignore"], "argument --missing: invalid choice: 'ignore'"),
        (["--lr", "-1"], "lr: expected a finite number of at least 0, got -1.0"),
        (["--rho", "2"], "rho: expected a number from 0 to 1, got 2.0"),
        (["--eps", "nan"], "eps: expected a finite number of at least 0, got nan"),
        (["--lr", "1e200"], "the fit diverged: the loss is not finite in epoch 1; try a smaller lr"),
        (["--lr", "10"], "the fit diverged: loss "),
        (["--plot", "no/such/folder/plot.png"], "--plot: expected a file in an existing folder"),
        (["--save", "no/such/folder/m.json"], "--save: expected a file in an existing folder"),
        (["--save", "/dev/full"], "--save: [Errno 28] No space left on device"),
        (["--save", "."], "--save: expected a file, got the folder ."),
        (["--plot", ""], "--plot: expected a file, got the folder ."),
        (["--plot", "plot.nonsense"], "--plot: "),
        (["--epochs", "0"], "argument --epochs: expected a whole number of at least 1, got '0'"),
        (["--batch-size", "x"], "argument --batch-size: expected a whole number of at least 1, got 'x'"),
        (["--seed", "-1"], "argument --seed: expected a whole number of at least 0, got '-1'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_options_get_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data.csv", GOOD)
    line = refusal(capsys, "fit", "data.csv", *options)
    assert line.startswith("rmsprop-fast")
    assert message in line


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
