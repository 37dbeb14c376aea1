"""`rmsprop_fast.fit`: certified values on any data, a loss that falls, models that predict and that can be saved."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes

import regression_problems
import rmsprop_fast as rf
from regression_problems import exact
from rmsprop_fast.errors import InputError
from rmsprop_fast.regression import fitting


def of(model: rf.LinearModel) -> NDArray[np.float64]:
    return np.array([model.intercept, *model.coefficients])


@pytest.mark.parametrize("name", regression_problems.NIST)
def test_certified_values(name: str) -> None:
    problem = regression_problems.NIST[name]
    started = time.perf_counter()
    model = rf.fit(problem.features, problem.target)
    assert time.perf_counter() - started < 2
    np.testing.assert_allclose(of(model), problem.coefficients, rtol=1e-6)
    errors = [model.intercept_standard_error, *model.standard_errors]
    np.testing.assert_allclose(errors, problem.standard_errors, rtol=1e-6, atol=1e-9)
    assert model.residual_std == pytest.approx(problem.residual_std, rel=1e-6, abs=1e-8)
    assert model.converged
    assert model.warnings == ()


@pytest.mark.parametrize("name", regression_problems.OTHERS)
def test_the_exact_solution(name: str) -> None:
    features, target = regression_problems.OTHERS[name]
    started = time.perf_counter()
    model = rf.fit(features, target)
    assert time.perf_counter() - started < 2
    solution = exact(features, target)
    np.testing.assert_allclose(of(model), solution, rtol=1e-9)
    found = [model.least_squares_intercept, *model.least_squares_coefficients]
    np.testing.assert_allclose(found, solution, rtol=1e-9)
    assert model.converged


def test_where_rounding_is_larger_than_usual_a_fit_still_converges() -> None:
    random = np.random.default_rng(1)
    a = random.standard_normal((80, 3))
    features = np.column_stack([a, a @ [1, 2, 3] + 1e-8 * random.standard_normal(80)])
    target = random.standard_normal(80)
    model = rf.fit(features, target)
    assert model.condition_number > 1e8
    assert (model.converged, model.warnings) == (True, ())
    np.testing.assert_allclose(of(model), exact(features, target), rtol=1e-6)
    with pytest.warns(RuntimeWarning, match="did not converge in 28 epochs; try more epochs"):
        rf.fit(features, target, epochs=28)  # the gradient is as small as rounding may leave it, but it still falls


def test_breast_cancer() -> None:
    """Its 30 features are too many for fractions."""
    features, target = load_breast_cancer(return_X_y=True)
    target = target.astype(float)
    started = time.perf_counter()
    model = rf.fit(features, target)
    assert time.perf_counter() - started < 2
    standardised = (features - features.mean(axis=0)) / features.std(axis=0)
    solution = np.linalg.lstsq(standardised, target - target.mean(), rcond=None)[0] / features.std(axis=0)
    np.testing.assert_allclose(model.coefficients, solution, rtol=1e-9)
    assert model.converged


@pytest.mark.parametrize("lr", [0.01, 0.5, 1.9])
@pytest.mark.parametrize("rho", [0.1, 0.9, 0.99, 1.0])
def test_the_loss_falls_in_every_epoch(lr: float, rho: float) -> None:
    problem = regression_problems.NIST["Longley"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not all converge
        model = rf.fit(problem.features, problem.target, lr=lr, rho=rho)
    assert len(model.losses) == model.epochs + 1 > 10
    assert np.diff(model.losses).max() < 1e-15  # rounding, of losses from 1 on
    assert np.diff(model.losses[:6]).max() < 0
    assert model.losses[-1] == pytest.approx(1 - model.r2, rel=1e-12)


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_start_weights_do_not_matter(seed: int) -> None:
    problem = regression_problems.NIST["Longley"]
    np.testing.assert_allclose(of(rf.fit(problem.features, problem.target, seed=seed)), problem.coefficients, rtol=1e-9)


def test_every_update_is_a_step_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0

    def counting_step(params: Any, grads: Any, state: Any) -> None:
        nonlocal steps
        steps += 1
        rf.step(params, grads, state)

    monkeypatch.setattr(fitting, "step", counting_step)
    problem = regression_problems.NIST["Longley"]
    assert rf.fit(problem.features, problem.target).epochs == steps
    steps = 0
    with pytest.warns(RuntimeWarning, match="did not converge"):
        rf.fit(problem.features, problem.target, epochs=5, batch_size=5)
    assert steps == 5 * 4  # 16 rows: 5, 5, 5, 1
    monkeypatch.setattr(fitting, "step", lambda *_: None)  # nothing else moves the weights
    with pytest.warns(RuntimeWarning, match="did not converge"):
        assert rf.fit(problem.features, problem.target).r2 < 0.1


def test_a_fit_that_does_not_converge_says_so_with_the_remedy() -> None:
    problem = regression_problems.NIST["Longley"]
    with pytest.warns(RuntimeWarning, match=r"^the fit did not converge in 7 epochs; try more epochs, or"):
        model = rf.fit(problem.features, problem.target, epochs=7)
    assert not model.converged
    (warning,) = model.warnings
    assert warning.startswith("the fit did not converge in 7 epochs; try more epochs, or")
    with pytest.warns(RuntimeWarning, match=r"did not converge in 200 epochs; try no batch size"):
        model = rf.fit(problem.features, problem.target, epochs=200, batch_size=4)
    np.testing.assert_allclose(of(model), problem.coefficients, rtol=0.1)  # near, but not there
    with pytest.warns(RuntimeWarning, match=r"did not converge in \d+ epochs; try lr and rho nearer to 1$"):
        rf.fit(problem.features, problem.target, lr=0)
    with pytest.warns(RuntimeWarning, match=r"did not converge in \d+ epochs; try lr and rho nearer to 1$"):
        rf.fit(problem.features, problem.target, rho=0)  # it has stopped by itself
    with pytest.warns(
        RuntimeWarning, match=r"did not converge in 7 epochs; try more epochs, or lr and rho nearer to 1$"
    ):
        rf.fit(problem.features, problem.target, epochs=7, batch_size=16)  # which are all rows


def test_what_double_precision_cannot_give_is_said() -> None:
    x = np.linspace(-9, -3, 82)
    features = np.column_stack([x**k for k in range(1, 12)])
    with pytest.warns(RuntimeWarning, match=r"nearly collinear \(condition number .*\): double precision"):
        model = rf.fit(features, np.cos(x))
    assert model.converged
    assert "gives about 5 digits of the coefficients" in model.warnings[0]
    np.testing.assert_allclose(of(model), exact(features, np.cos(x)), rtol=1e-5)


def test_a_fit_that_diverges_is_an_error() -> None:
    problem = regression_problems.NIST["Longley"]
    with pytest.raises(InputError, match="the fit diverged: the loss is not finite in epoch 1; try a smaller lr"):
        rf.fit(problem.features, problem.target, lr=1e200)
    with pytest.raises(InputError, match=r"the fit diverged: loss .* is above its start .*; try a smaller lr"):
        rf.fit(problem.features, problem.target, lr=10)


@pytest.mark.parametrize("scale", [1e-200, 1e-5, 1e5, 1e200])
def test_any_units(scale: float) -> None:
    x = np.arange(10.0)
    y = 3 * x + x % 2
    solution = exact(x[:, np.newaxis], y)
    model = rf.fit(x * scale, y)
    np.testing.assert_allclose([model.intercept, model.coefficients[0] * scale], solution, rtol=1e-12)
    model = rf.fit(x, y * scale)
    np.testing.assert_allclose(of(model) / scale, solution, rtol=1e-12)


def test_columns_far_from_zero() -> None:
    x = 1e16 + np.array([0.0, 2, 4, 6])
    y = np.array([1.0, 2, 4, 5])
    few = "its values are so far from 0 that double precision holds about 0 digits of their differences"
    with pytest.warns(RuntimeWarning, match=f"^feature 'x': {few}$"):
        model = rf.fit(x, y)
    assert model.coefficients[0] == pytest.approx(0.7, rel=1e-12)
    assert model.r2 == pytest.approx(0.98, rel=1e-12)
    with pytest.warns(RuntimeWarning, match=f"^target 'y': {few}$"):
        flipped = rf.fit(y, x)
    assert flipped.r2 == pytest.approx(0.98, rel=1e-12)
    assert flipped.coefficients[0] == pytest.approx(1.4, rel=1e-12)


def test_columns_that_are_constant_but_for_rounding() -> None:
    sums = np.array([0.1 + 0.2, 0.3] * 5)
    with pytest.warns(RuntimeWarning, match=r"^feature 'b': .* about 0 digits of their differences$"):
        rf.fit(pd.DataFrame({"a": np.arange(10.0) ** 2, "b": sums}), np.arange(10.0))
    nanoseconds = 1_700_000_000_000_000_000 + np.arange(10) * 86_400_000_000_000  # beyond 2**53, and harmless
    assert rf.fit(nanoseconds, np.sin(np.arange(10.0))).warnings == ()


def test_as_many_rows_as_coefficients_leave_no_residual() -> None:
    model = rf.fit([1.0, 2.0], [2.0, 4.0])
    assert of(model) == pytest.approx([0, 2], abs=1e-12)
    assert math.isnan(model.residual_std)
    assert math.isnan(model.intercept_standard_error)
    assert np.isnan(model.standard_errors).all()
    assert model.as_dict()["standard_errors"] == {"intercept": None, "coefficients": {"x": None}}


def test_inputs_are_never_written_to() -> None:
    features, target = load_diabetes(return_X_y=True)
    copies = features.copy(), target.copy()
    features.flags.writeable = target.flags.writeable = False
    rf.fit(features, target)
    with pytest.warns(RuntimeWarning):
        rf.fit(features, target, batch_size=100, epochs=2)
    np.testing.assert_array_equal(features, copies[0])
    np.testing.assert_array_equal(target, copies[1])


def test_memory_order_and_type_do_not_matter() -> None:
    random = np.random.default_rng(0)
    features = random.integers(-100, 100, (50, 3))
    target = features @ [1, 2, 3] + random.integers(-5, 5, 50)
    expected = of(rf.fit(features.astype(float), target.astype(float)))
    for given in (features, features.astype(np.int8), np.asfortranarray(features), features.tolist(), features[::1, :]):
        np.testing.assert_allclose(of(rf.fit(given, target)), expected, rtol=1e-12)


def test_data_frames() -> None:
    frame = pd.DataFrame({"a": [1, 2, 3, 4, 5], "b": [1.0, 0, 1, 0, 0], "c": [3.0, 3, 7, 8, 11]})
    model = rf.fit(frame[["a", "b"]], frame["c"])
    assert (model.feature_names, model.target_name) == (("a", "b"), "c")
    np.testing.assert_allclose(of(model), exact(frame[["a", "b"]].to_numpy(float), frame["c"].to_numpy()), rtol=1e-12)
    expected = model.predict(frame[["a", "b"]].to_numpy())
    np.testing.assert_array_equal(model.predict(frame[["c", "b", "a"]]), expected)  # by name, in any order
    numbered = frame[["a", "b"]].set_axis([0, 1], axis=1)
    again = rf.fit(numbered, frame["c"])
    assert again.feature_names == ("0", "1")
    np.testing.assert_array_equal(again.predict(numbered[[1, 0]]), expected)
    with pytest.raises(InputError, match="features: expected a column 'b', got a, c"):
        model.predict(frame[["a", "c"]])
    with pytest.raises(InputError, match=r"features: expected columns of different names, got a, a"):
        rf.fit(frame[["a", "a"]], frame["c"])
    with pytest.raises(InputError, match=r"features\[1, 0\]: expected a finite number, got nan"):
        rf.fit(pd.DataFrame({"a": [1.0, None, 3.0]}), [1.0, 2.0, 3.0])


def test_names() -> None:
    assert rf.fit([1.0, 2.0, 4.0], [1.0, 2.0, 3.0]).feature_names == ("x",)
    model = rf.fit([[1.0, 0.0], [2.0, 1.0], [4.0, 0.0], [5.0, 3.0]], [1.0, 2.0, 3.0, 5.0])
    assert (model.feature_names, model.target_name) == (("x1", "x2"), "y")
    model = rf.fit([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], feature_names=["age"], target_name="height")
    assert list(model.as_dict()["coefficients"]) == ["age"]
    assert model.as_dict()["target"] == "height"
    model = rf.fit([1.0, 2.0, 4.0], pd.Series([1.0, 2.0, 3.0], name=0), feature_names=[2020])  # type: ignore[list-item]
    assert (model.feature_names, model.target_name) == (("2020",), "0")
    assert rf.fit([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], target_name=7).target_name == "7"  # type: ignore[arg-type]


X, Y = [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("features", "target", "options", "message"),
    [
        ([], [], {}, "data: expected at least 2 rows, one for each feature and for the intercept, got 0"),
        ([1.0], [1.0], {}, "data: expected at least 2 rows, one for each feature and for the intercept, got 1"),
        ([[]], [1.0], {}, "features: expected shape (n,) or (n, k), got (1, 0)"),
        (np.zeros((2, 2, 2)), [1.0, 2.0], {}, "features: expected shape (n,) or (n, k), got (2, 2, 2)"),
        (X, [1.0, 2.0], {}, "target 'y': expected shape (4,), got (2,)"),
        (X, [[1.0], [2.0], [2.0], [3.0]], {}, "target 'y': expected shape (4,), got (4, 1)"),
        ([1.0, np.nan, 3.0, 4.0], Y, {}, "features[1]: expected a finite number, got nan"),
        (X, [1.0, 2.0, np.inf, 3.0], {}, "target 'y'[2]: expected a finite number, got inf"),
        (["1", "2", "3", "4"], Y, {}, "features: expected real numbers, got <U1"),
        ([1j, 2, 3, 4], Y, {}, "features: expected real numbers, got complex128"),
        ([1.0, None, 3.0, 4.0], Y, {}, "features[1]: expected a finite number, got nan"),
        ([1.0, "b", 3.0, 4.0], Y, {}, "features: expected real numbers, got <U32"),
        (np.array([1.0, "b", 3.0, 4.0], object), Y, {}, "features: expected real numbers, got something else: "),
        (np.ma.masked_equal(X, 2.0), Y, {}, "features: expected an array, got a masked one"),
        ([5.0, 5.0, 5.0, 5.0], Y, {}, "feature 'x': expected different values, got a constant column of 5"),
        (X, [2.0, 2.0, 2.0, 2.0], {}, "target 'y': expected different values, got a constant column of 2"),
        ([1e308, 1.7e308, -1.7e308, 1.6e308], Y, {}, "feature 'x': expected values whose sum is a finite number"),
        ([1e-200, 2e-200, 3e-200, 4e-200], [1e200, 2e200, 3e200, 5e200], {}, "data: expected units in which"),
        (
            np.array([1e-309, 2e-309, 3e-309, 5e-309]),
            [1.0, -1.0, 1.0, -1.0],
            {},
            "data: expected units in which",
        ),
        (
            np.array([-3e-309, -1e-309, 1e-309, 3e-309]),
            [1.0, -1.0, -1.0, 1.0],
            {},
            "data: expected units in which standard errors are finite numbers",
        ),
        ([10**400, 1, 2, 3], Y, {}, "features: expected real numbers, got something else: int too large"),
        (X, Y, {"epochs": True}, "epochs: expected a whole number of at least 1, got True"),
        (X, Y, {"lr": np.array([0.5, 0.4])}, "lr: expected a number, got an array of shape (2,)"),
        (
            [[1.0, 0.0], [2.0, 1.0], [4.0, 0.0], [5.0, 3.0]],
            Y,
            {"feature_names": ["a", "a"]},
            "features: expected columns of different names, got a, a",
        ),
        (X, Y, {"lr": -1}, "lr: expected a finite number of at least 0, got -1"),
        (X, Y, {"rho": 2}, "rho: expected a number from 0 to 1, got 2"),
        (X, Y, {"eps": math.nan}, "eps: expected a finite number of at least 0, got nan"),
        (X, Y, {"epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
        (X, Y, {"epochs": 10.5}, "epochs: expected a whole number of at least 1, got 10.5"),
        (X, Y, {"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        (X, Y, {"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
        (None, Y, {}, "features: expected an array, got None"),
        ([[1.0, 2.0], [3.0]], [1.0, 2.0], {}, "features: expected an array, got what NumPy makes none of: "),
        (X, Y, {"feature_names": ["a", "b"]}, "features: expected 2 columns (a, b), got 1"),
    ],
)
def test_bad_input_gets_one_line(features: Any, target: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        rf.fit(features, target, **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_collinear_columns_are_refused_naming_few() -> None:
    random = np.random.default_rng(0)
    a, b, y = random.standard_normal((3, 100))
    with pytest.raises(
        InputError, match=r"feature 'x3': expected an independent one, got a linear combination of 'x2', 'x1'$"
    ):
        rf.fit(np.column_stack([a, b, a + 2 * b + 1]), y)
    with pytest.raises(InputError, match=r"feature 'x3': .* a linear combination of 'x1'$"):
        rf.fit(np.column_stack([a, b, 1e6 * a + 1e9]), y)


def test_many_collinear_columns_are_refused_soon() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((1000, 400))
    features[:, 399] = features[:, :390].sum(axis=1)
    started = time.perf_counter()
    np.linalg.qr(features)
    decomposed = time.perf_counter()
    with pytest.raises(InputError, match=r"feature 'x400': .* combination of 'x\d+', 'x\d+', 'x\d+' and 387 more$"):
        rf.fit(features, features[:, 0])
    assert time.perf_counter() - decomposed < 50 * (decomposed - started)  # with one for each column, 400


def test_predict() -> None:
    model = rf.fit([1.0, 2.0, 3.0], [3.0, 5.0, 7.0])
    np.testing.assert_allclose(model.predict([10.0, 20.0]), [21, 41], rtol=1e-12)
    np.testing.assert_allclose(model.predict([[10.0]]), [21], rtol=1e-12)
    with pytest.raises(InputError, match=r"features: expected 1 columns \(x\), got 2"):
        model.predict([[1.0, 2.0]])
    with pytest.raises(InputError, match=r"features\[0\]: expected a finite number, got nan"):
        model.predict([np.nan])


def test_a_saved_model_keeps_every_bit(tmp_path: Path) -> None:
    features, target = load_diabetes(return_X_y=True)
    for model in (rf.fit(features, target), rf.fit([1.0, 2.0], [2.0, 4.0], target_name="größe")):
        model.save(tmp_path / "model.json")
        loaded = rf.LinearModel.load(tmp_path / "model.json")
        for name, value in vars(model).items():
            np.testing.assert_array_equal(getattr(loaded, name), value, strict=isinstance(value, np.ndarray))
        np.testing.assert_array_equal(
            loaded.predict(features[:3, : len(model.coefficients)]),
            model.predict(features[:3, : len(model.coefficients)]),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: None, "No such file or directory"),
        (lambda text: "", "expected a saved model, got no JSON: "),
        (lambda text: text[:-5], "expected a saved model, got no JSON: "),
        (lambda text: "\udcff", "expected a saved model, got no JSON: "),
        (lambda text: "[1]", "expected a saved model, which has the format 'rmsprop_fast.LinearModel', got other JSON"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "expected a model of version 1, got 2"),
        (lambda text: text.replace('"r2"', '"r3"'), "expected a saved model, got one that is damaged: KeyError('r2')"),
        (
            lambda text: text.replace('"intercept": ', '"intercept": null, "i": '),
            "expected a saved model, got one that",
        ),
        (lambda text: text.replace('"intercept": ', '"intercept": NaN, "i": '), "expected a saved model, got one that"),
        (lambda text: json.dumps({**json.loads(text), "coefficients": 3}), "expected a saved model, got one that is"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "model.json"
    rf.fit(X, Y).save(path)
    text = change(path.read_text())
    path.unlink()
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r".") as caught:
        rf.LinearModel.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_memory_beside_many_columns() -> None:
    """The standardised copy, and blocks of rows; not several more copies."""
    code = """if True:
        import resource
        import numpy as np
        import rmsprop_fast as rf
        features = np.random.default_rng(0).standard_normal((30_000, 300))
        target = features[:, 0] + features[:, 1] ** 2
        rf.fit(features[:2000, :2], target[:2000])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rf.fit(features, target)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / features.nbytes)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 2.5
