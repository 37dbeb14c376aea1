"""rf.minimize, called as it stands and by SciPy; the figures in its docstring."""

from __future__ import annotations

import functools
import inspect
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from rmsprop_fast.minimize import minimize

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

optimize = pytest.importorskip("scipy.optimize")
rosen, rosen_der = optimize.rosen, optimize.rosen_der


def square(x: Any) -> Any:
    return 0.5 * x @ x


def square_der(x: Any) -> Any:
    return x.copy()


def quadratic(hessian: NDArray[np.float64], centre: NDArray[np.float64]) -> Callable[[Any], tuple[float, Any]]:
    def value_and_gradient(x: Any) -> tuple[float, Any]:
        gradient = hessian @ (x - centre)
        return 0.5 * (x - centre) @ gradient, gradient

    return value_and_gradient


def directly(fun: Any, x0: Any, **options: Any) -> Any:
    return minimize(fun, x0, **options)


def by_scipy(fun: Any, x0: Any, *, args: Any = (), jac: Any = None, callback: Any = None, **options: Any) -> Any:
    return optimize.minimize(fun, x0, args=args, jac=jac, method=minimize, callback=callback, options=options)


# The bounds below are what tol guarantees: the gradient's norm over the smallest eigenvalue of the Hessian.
both_ways = pytest.mark.parametrize("run", [directly, by_scipy])


@both_ways
@pytest.mark.parametrize("size", [2, 10])
def test_rosenbrock(run: Any, size: int) -> None:
    result = run(rosen, np.tile([-1.2, 1.0], size // 2), jac=rosen_der)
    assert result.success
    np.testing.assert_allclose(result.x, 1, rtol=0, atol=1e-4)
    assert result.fun < 1e-9
    assert np.abs(result.jac).max() <= 1e-5


def test_rosenbrock_more_accurately() -> None:
    result = minimize(rosen, [-1.2, 1.0], jac=rosen_der, tol=1e-8)
    assert result.success
    np.testing.assert_allclose(result.x, 1, rtol=0, atol=1e-7)


@both_ways
def test_a_diagonal_quadratic_of_condition_1e6(run: Any) -> None:
    centre = np.random.default_rng(0).standard_normal(10)
    result = run(quadratic(np.diag(np.logspace(0, 6, 10)), centre), np.zeros(10), jac=True)
    assert result.success
    np.testing.assert_allclose(result.x, centre, rtol=0, atol=1e-5)
    assert result.fun < 1e-9
    assert result.nit < 1000


@pytest.mark.parametrize("seed", range(3))
def test_a_rotated_quadratic_of_condition_1e6_needs_momentum(seed: int) -> None:
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.standard_normal((10, 10)))[0]
    centre = random.standard_normal(10)
    fun = quadratic((rotation * np.logspace(0, 6, 10)) @ rotation.T, centre)
    plain = minimize(fun, np.zeros(10), jac=True)
    assert not plain.success
    assert plain.fun < 1e-6 * fun(np.zeros(10))[0]
    result = minimize(fun, np.zeros(10), jac=True, momentum=0.99, epochs=50_000)
    assert result.success
    np.testing.assert_allclose(result.x, centre, rtol=0, atol=4e-5)
    assert result.fun < 1e-9


@both_ways
def test_logistic_regression(run: Any) -> None:
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression

    features, labels = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(features, labels)
    expected = np.append(model.coef_[0], model.intercept_)
    design = np.column_stack([features, np.ones(len(features))])
    penalised = np.append(np.ones(features.shape[1]), 0)

    def loss(x: Any) -> tuple[float, Any]:
        scores = design @ x
        probabilities = 0.5 * (1 + np.tanh(0.5 * scores))
        value = np.logaddexp(0, scores).sum() - labels @ scores + 0.5 * penalised @ x**2
        return value, design.T @ (probabilities - labels) + penalised * x

    result = run(loss, np.zeros(31), jac=True)
    assert result.success
    np.testing.assert_allclose(result.x, expected, rtol=0, atol=6e-5)
    assert result.fun <= loss(expected)[0] + 1e-9
    assert result.nit < 2000


@pytest.mark.parametrize(
    ("run", "jac"),
    [(directly, None), (directly, False), (directly, "2-point"), (by_scipy, None), (by_scipy, "3-point")],
)
def test_forward_differences(run: Any, jac: Any) -> None:
    calls = []

    def fun(x: Any) -> Any:
        calls.append(x)
        return rosen(x)

    result = run(fun, [1.2, 1.0], jac=jac, epochs=5000)
    assert result.success
    np.testing.assert_allclose(result.x, 1, rtol=0, atol=1e-4)
    assert result.nfev == len(calls) == 4 * (result.nit + 1)
    assert result.njev == result.nit + 1


def test_forward_differences_far_from_0() -> None:
    assert minimize(lambda x: ((x / 1e8 - 1) ** 2).item(), 1.2e8, lr=1e6, tol=1e-11).x == pytest.approx(1e8, rel=1e-2)


@both_ways
def test_result_fields(run: Any) -> None:
    calls = {"fun": 0, "jac": 0}

    def fun(x: Any) -> Any:
        calls["fun"] += 1
        return square(x)

    def jac(x: Any) -> Any:
        calls["jac"] += 1
        return x

    result = run(fun, [1.0, -2.0], jac=jac)
    assert isinstance(result, optimize.OptimizeResult)
    assert set(result) == {"x", "fun", "jac", "nit", "nfev", "njev", "success", "status", "message"}
    assert result.x.dtype == np.float64
    assert result.x.shape == (2,)
    assert result.fun == square(result.x)
    assert type(result.fun) is float
    assert np.array_equal(result.jac, result.x)
    assert (result.nfev, result.njev) == (calls["fun"], calls["jac"]) == (result.nit + 1, result.nit + 1)
    assert result.success is True
    assert result.status == 0
    assert re.fullmatch(r"The largest element of the gradient, .*e-.*, is within tol=1e-05\.", result.message)


def test_a_start_at_the_minimum_takes_no_step() -> None:
    result = minimize(square, [0.0, 0.0], jac=square_der, callback=lambda xk: pytest.fail("called"))
    assert (result.success, result.nit, result.nfev, result.fun) == (True, 0, 1, 0.0)


@both_ways
@pytest.mark.parametrize("jac", [True, "separate"])
def test_args(run: Any, jac: Any) -> None:
    def value(x: Any, centre: float, scale: float) -> Any:
        return scale * square(x - centre)

    def gradient(x: Any, centre: float, scale: float) -> Any:
        return scale * (x - centre)

    if jac is True:
        result = run(lambda *a: (value(*a), gradient(*a)), [0.0, 1.0], args=(3.0, 2.0), jac=True)
    else:
        result = run(value, [0.0, 1.0], args=(3.0, 2.0), jac=gradient)
    np.testing.assert_allclose(result.x, 3, atol=1e-5)


def test_args_other_than_a_tuple_are_one_argument() -> None:
    result = minimize(lambda x, centre: (square(x - centre), x - centre), [0.0, 0.0], [0.25, 0.5], jac=True)
    assert result.x == pytest.approx([0.25, 0.5], abs=1e-5)


@both_ways
def test_tol(run: Any) -> None:
    for tol in (1e-2, 1e-9):
        result = run(square, [1.0], jac=square_der, tol=tol)
        assert result.success
        assert abs(result.jac.item()) <= tol
    by_keyword = optimize.minimize(square, [1.0], jac=square_der, method=minimize, tol=1e-9)
    assert (by_keyword.success, by_keyword.nit) == (True, result.nit)


@both_ways
def test_callback_of_x(run: Any) -> None:
    seen: list[Any] = []
    result = run(square, [1.0, 2.0], jac=square_der, callback=seen.append, epochs=20)
    assert len(seen) == result.nit == 20
    assert np.array_equal(seen[-1], result.x)
    assert not np.array_equal(seen[0], seen[1])  # copies


@both_ways
def test_callback_of_intermediate_result(run: Any) -> None:
    seen = []

    def callback(intermediate_result: Any) -> None:
        assert isinstance(intermediate_result, optimize.OptimizeResult)
        seen.append(intermediate_result)

    result = run(square, [1.0, 2.0], jac=square_der, callback=callback, epochs=20)
    assert len(seen) == 20
    assert all(each.fun == square(each.x) for each in seen)
    assert np.array_equal(seen[-1].x, result.x)


def callbacks(see: Callable[[Any], None]) -> dict[str, Callable[..., Any]]:
    """Return callbacks of all forms; each hands its argument to `see`."""

    def of_x(xk: Any) -> None:
        see(xk)

    def of_result(intermediate_result: Any) -> None:
        see(intermediate_result)

    def of_keyword(*, intermediate_result: Any) -> None:
        see(intermediate_result)

    def of_two(intermediate_result: Any, other: Any = None) -> None:
        see(intermediate_result)

    class Watcher:
        def of_result(self, intermediate_result: Any) -> None:
            see(intermediate_result)

        def __call__(self, intermediate_result: Any) -> None:
            see(intermediate_result)

    return {
        "x": of_x,
        "any number": lambda *arguments: see(*arguments),
        "result": of_result,
        "keyword": of_keyword,
        "two": of_two,
        "bound": Watcher().of_result,
        "called": Watcher(),
        "partial, x": functools.partial(lambda tag, xk: see(xk), "tag"),
        "partial, result": functools.partial(lambda tag, intermediate_result: see(intermediate_result), "tag"),
        "partial, two": functools.partial(of_two, other=1),
    }


@both_ways
@pytest.mark.parametrize("form", list(callbacks(print)))
def test_callbacks_get_what_scipy_gives_them(run: Any, form: str) -> None:
    ours: list[Any] = []
    theirs: list[Any] = []
    run(rosen, [-1.2, 1.0], jac=rosen_der, callback=callbacks(ours.append)[form], epochs=3)
    optimize.minimize(rosen, [-1.2, 1.0], jac=rosen_der, method="BFGS", callback=callbacks(theirs.append)[form])
    assert len(ours) == 3
    assert {type(each) for each in ours} == {type(each) for each in theirs}


@both_ways
def test_a_callback_that_cannot_be_inspected_is_refused_as_in_scipy(run: Any) -> None:
    with pytest.raises(ValueError, match="signature"):
        optimize.minimize(rosen, [-1.2, 1.0], method="BFGS", callback=max)
    with pytest.raises(ValueError, match="callback: expected a function with a signature to inspect, got <built-in"):
        run(lambda x: pytest.fail("called"), [-1.2, 1.0], callback=max)


@both_ways
def test_what_a_callback_returns_is_ignored_as_by_bfgs(run: Any) -> None:
    assert run(square, [1.0, 2.0], jac=square_der, callback=lambda xk: True).status == 0
    assert optimize.minimize(square, [1.0, 2.0], jac=square_der, method="BFGS", callback=lambda xk: True).nit > 1


@both_ways
def test_callback_stops_the_run_as_in_scipy(run: Any) -> None:
    seen = []

    def callback(xk: Any) -> None:
        seen.append(xk)
        if len(seen) == 3:
            raise StopIteration

    result = run(rosen, [-1.2, 1.0], jac=rosen_der, callback=callback)
    assert np.array_equal(result.x, seen[-1])
    assert result.nit == 3
    seen.clear()
    bfgs = optimize.minimize(rosen, [-1.2, 1.0], jac=rosen_der, method="BFGS", callback=callback)
    assert bfgs.nit == 3
    for field in ("success", "status", "message"):
        assert result[field] == bfgs[field]


def test_other_exceptions_pass_through() -> None:
    def fail(*args: Any) -> Any:
        raise TypeError("mine")

    for failing in ("fun", "jac", "callback"):
        given: dict[str, Any] = {"fun": square, "jac": square_der, failing: fail}
        with pytest.raises(TypeError, match=r"^mine$"):
            minimize(x0=[1.0], **given)


@both_ways
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pair", [True, False])
def test_a_bad_objective_ends_the_run_at_the_last_good_point(run: Any, bad: float, pair: bool) -> None:
    seen: list[Any] = []

    def fun(x: Any) -> Any:
        return square(x) if x[0] > 0.5 else bad

    objective: Any = (lambda x: (fun(x), x)) if pair else fun
    result = run(objective, [1.0, 1.0], jac=True if pair else square_der, callback=seen.append)
    assert (result.success, result.status) == (False, 3)
    assert np.array_equal(result.x, seen[-1])
    assert 0.5 < result.x[0] < 1
    assert result.fun == square(result.x)
    assert np.array_equal(result.jac, result.x)
    assert len(seen) == result.nit - 1
    assert f"objective is {bad}" in result.message
    assert f"after {result.nit} epochs" in result.message


@both_ways
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_gradient_ends_the_run_at_the_last_good_point(run: Any, bad: float) -> None:
    buffer = np.empty(2)  # jac may return the same array each time

    def jac(x: Any) -> Any:
        buffer[:] = x if x[0] > 0.5 else bad
        return buffer

    result = run(square, [1.0, 1.0], jac=jac)
    assert (result.success, result.status) == (False, 3)
    assert result.x[0] > 0.5
    assert np.array_equal(result.jac, result.x)
    assert "gradient is not finite" in result.message


@both_ways
def test_a_bad_objective_at_the_start(run: Any) -> None:
    result = run(lambda x: np.nan, [1.0, 2.0], jac=square_der)
    assert (result.success, result.status, result.nit, result.nfev, result.njev) == (False, 3, 0, 1, 0)
    assert np.array_equal(result.x, [1.0, 2.0])
    assert np.isnan(result.fun)
    assert np.isnan(result.jac).all()
    assert "at x0" in result.message
    assert run(square, [1.0], jac=lambda x: x * np.nan).status == 3


def test_exhausted_epochs() -> None:
    result = minimize(rosen, [-1.2, 1.0], jac=rosen_der, epochs=7)
    assert (result.success, result.status, result.nit, result.nfev) == (False, 1, 7, 8)
    assert "after all epochs=7" in result.message
    assert "above tol=1e-05" in result.message
    assert result.fun == rosen(result.x)
    assert np.array_equal(result.jac, rosen_der(result.x))


@both_ways
def test_maxiter_is_epochs(run: Any) -> None:
    by_epochs = run(rosen, [-1.2, 1.0], jac=rosen_der, epochs=7)
    by_maxiter = run(rosen, [-1.2, 1.0], jac=rosen_der, maxiter=np.int64(7))
    assert (by_maxiter.nit, by_maxiter.status) == (7, 1)
    assert np.array_equal(by_maxiter.x, by_epochs.x)
    assert np.array_equal(run(rosen, [2.0, 1.0], maxiter=None).x, run(rosen, [2.0, 1.0], epochs=20_000).x)


@both_ways
def test_disp_prints_what_scipy_prints(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    optimize.minimize(rosen, [-1.2, 1.0], jac=rosen_der, method="BFGS", options={"disp": True})
    labels = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(labels) == 4

    def shown(result: Any) -> list[str]:
        values = (f"{result.fun:f}", result.nit, result.nfev, result.njev)
        return [f"{label}: {value}" for label, value in zip(labels, values, strict=True)]

    result = run(rosen, [1.2, 1.0], disp=True)
    assert capsys.readouterr().out.splitlines() == [result.message, *shown(result)]
    with pytest.warns(optimize.OptimizeWarning, match="above tol=1e-05 after all epochs=7"):
        result = run(rosen, [1.2, 1.0], disp=1, epochs=7)
    assert capsys.readouterr().out.splitlines() == shown(result)
    with pytest.warns(optimize.OptimizeWarning, match="The objective is nan"):
        run(lambda x: np.nan, [1.2, 1.0], disp=np.True_)

    def stop(xk: Any) -> None:
        raise StopIteration

    capsys.readouterr()
    result = run(rosen, [1.2, 1.0], disp=True, callback=stop)
    assert capsys.readouterr().out.splitlines() == ["`callback` raised `StopIteration`.", *shown(result)]
    for silent in (False, 0, None):
        run(rosen, [1.2, 1.0], disp=silent, epochs=7)
    assert capsys.readouterr().out == ""


def test_each_update_is_a_step_with_a_falling_learning_rate() -> None:
    seen: list[Any] = []
    options: dict[str, Any] = {"rho": 0.9, "momentum": 0.5, "eps": 1e-3, "centered": True}
    minimize(rosen, [-1.2, 1.0], jac=rosen_der, lr=0.02, epochs=4, callback=seen.append, **options)
    from rmsprop_fast import init, step

    x = np.array([-1.2, 1.0])
    state = init(x, lr=0.02, **options)
    for epoch in range(4):
        state.lr = 0.02 * 1e-8 ** (epoch / 4)
        step(x, rosen_der(x), state)
        np.testing.assert_allclose(seen[epoch], x, rtol=1e-12)


@pytest.mark.parametrize("x0", [2, 2.0, [2], (2.0,), np.float32(2), np.array([2], ">f4"), np.array([2, 1, 2])[::-2]])
def test_starts_of_many_types(x0: Any) -> None:
    result = minimize(square, x0, jac=square_der)
    assert result.success
    assert result.x.dtype == np.float64
    assert result.x.shape == np.atleast_1d(x0).shape


def test_objectives_of_one_element_and_gradients_of_a_number() -> None:
    result = minimize(lambda x: x**2, 1.0, jac=lambda x: 2 * x.item())
    assert result.success
    assert type(result.fun) is float
    assert result.jac.shape == (1,)


@both_ways
def test_nothing_of_the_callers_changes_and_nothing_of_ours_can_be_changed(run: Any) -> None:
    def mutating(function: Any) -> Any:
        def changed(x: Any) -> Any:
            result = function(x)
            x[:] = 1e3
            return result

        return changed

    start = np.array([-1.2, 1.0])
    plain = run(rosen, start, jac=rosen_der, epochs=50)
    callback = mutating(lambda x: None)
    for fun, jac in ((mutating(rosen), mutating(rosen_der)), (mutating(lambda x: (rosen(x), rosen_der(x))), True)):
        result = run(fun, start, jac=jac, callback=callback, epochs=50)
        assert np.array_equal(result.x, plain.x)
        assert (result.fun, result.nit) == (plain.fun, plain.nit)
    run(mutating(rosen), start, epochs=3)
    assert np.array_equal(start, [-1.2, 1.0])

    frozen = np.array([1.0, 2.0])
    frozen.flags.writeable = False
    gradient = frozen.copy()
    gradient.flags.writeable = False
    result = run(lambda x: 1.0, frozen, jac=lambda x: gradient, epochs=3)
    assert not np.shares_memory(result.jac, gradient)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)

REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"fun": 3}, TypeError, "fun: expected a function, got 3"),
    ({"fun": lambda x: None}, TypeError, "fun: expected one real number, got None"),
    ({"fun": lambda x: x}, TypeError, "fun: expected one real number, got array"),
    ({"fun": lambda x: 1j}, TypeError, "fun: expected one real number, got 1j"),
    ({"jac": True}, TypeError, "fun: expected a pair of objective and gradient, as jac is True, got "),
    ({"jac": "3-point"}, ValueError, "jac: expected a function, True, '2-point' or None, got '3-point'"),
    ({"jac": "cs"}, ValueError, "jac: expected a function, True, '2-point' or None, got 'cs'"),
    ({"jac": np.ones(2)}, ValueError, "jac: expected a function, True, '2-point' or None, got array"),
    ({"jac": lambda x: x[:1]}, ValueError, "jac: expected a gradient of shape (2,), got shape (1,)"),
    ({"jac": lambda x: x[None]}, ValueError, "jac: expected a gradient of shape (2,), got shape (1, 2)"),
    ({"jac": lambda x: 1.0}, ValueError, "jac: expected a gradient of shape (2,), got shape (1,)"),
    ({"jac": lambda x: None}, TypeError, "jac: expected real numbers, got None"),
    ({"jac": lambda x: x * 1j}, TypeError, "jac: expected real numbers, got array"),
    ({"jac": lambda x: [[1], [1, 2]]}, TypeError, "jac: expected real numbers, got [[1], [1, 2]]"),
    ({"fun": lambda x: np.ma.masked}, TypeError, "fun: expected numbers without a mask, got MaskedConstant"),
    ({"fun": lambda x: np.ma.array([1.0])}, TypeError, "fun: expected numbers without a mask, got MaskedArray"),
    ({"fun": lambda x: np.ma.masked, "jac": None}, TypeError, "fun: expected numbers without a mask, got Masked"),
    (
        {"fun": lambda x: (1, np.ma.array(x)), "jac": True},
        TypeError,
        "fun: expected numbers without a mask, got Masked",
    ),
    ({"fun": lambda x: (np.ma.masked, x), "jac": True}, TypeError, "fun: expected numbers without a mask, got Masked"),
    ({"jac": lambda x: np.ma.array(x, mask=True)}, TypeError, "jac: expected numbers without a mask, got MaskedArr"),
    ({"jac": lambda x: [1.0, np.ma.masked]}, TypeError, "jac: expected numbers without a mask, got MaskedConstant"),
    ({"jac": True, "fun": lambda x: (1, [1])}, ValueError, "fun: expected a gradient of shape (2,), got shape (1,)"),
    ({"x0": [1j]}, TypeError, "x0: expected real numbers, got [1j]"),
    ({"x0": "abc"}, TypeError, "x0: expected real numbers, got 'abc'"),
    ({"x0": CYCLE}, TypeError, "x0: expected real numbers, got [[...]]"),
    ({"x0": None}, TypeError, "x0: expected real numbers, got None"),
    ({"x0": np.ma.array([1.0, 2.0])}, TypeError, "x0: expected numbers without a mask, got MaskedArray"),
    ({"x0": (1.0, np.ma.array(2.0, mask=True))}, TypeError, "x0: expected numbers without a mask, got MaskedArray"),
    ({"x0": [[1.0, 2.0]]}, ValueError, "x0: expected one dimension, got shape (1, 2)"),
    ({"x0": [1.0, np.nan]}, ValueError, "x0: expected finite numbers, got [ 1. nan]"),
    ({"lr": np.array([0.1, 0.2])}, TypeError, "lr: expected a finite number of at least 0, got array([0.1, 0.2])"),
    ({"lr": -1.0}, ValueError, "lr: expected a finite number of at least 0, got -1.0"),
    ({"rho": 2.0}, ValueError, "rho: expected a number from 0 to 1, got 2.0"),
    ({"epochs": 0}, ValueError, "epochs: expected an integer of at least 1, got 0"),
    ({"epochs": 10.0}, TypeError, "epochs: expected an integer of at least 1, got 10.0"),
    ({"epochs": True}, TypeError, "epochs: expected an integer of at least 1, got True"),
    ({"maxiter": 0}, ValueError, "maxiter: expected an integer of at least 1, got 0"),
    ({"maxiter": 1e3}, TypeError, "maxiter: expected an integer of at least 1, got 1000.0"),
    (
        {"maxiter": 5, "epochs": 5},
        ValueError,
        "maxiter: expected none beside epochs, its other name, got 5 and epochs=5",
    ),
    ({"disp": "no"}, TypeError, "disp: expected True or False, got 'no'"),
    ({"tol": -1e-5}, ValueError, "tol: expected a finite number of at least 0, got -1e-05"),
    ({"tol": np.nan}, ValueError, "tol: expected a finite number of at least 0, got nan"),
    ({"tol": None}, TypeError, "tol: expected a finite number of at least 0, got None"),
    ({"callback": 1}, TypeError, "callback: expected a function or None, got 1"),
    ({"hess": 1}, ValueError, "hess: expected none, as RMSprop has no use for it, got 1"),
    ({"hessp": 1}, ValueError, "hessp: expected none, as RMSprop has no use for it, got 1"),
    ({"bounds": [(0, 1)] * 2}, ValueError, "bounds: expected none, as RMSprop has no use for it, got [(0, 1), (0, 1)]"),
    ({"constraints": {"type": "eq"}}, ValueError, "constraints: expected none, as RMSprop has no use for it, got {"),
    ({"maximize": True}, ValueError, "maximize: expected False (to maximise, minimise -fun), got True"),
    ({"skip_nonfinite": True}, ValueError, "skip_nonfinite: expected False (x would stand still), got True"),
    ({"gtol": 5}, TypeError, "got 'gtol'"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), REFUSALS)
def test_refusals(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        minimize(**{"fun": square, "x0": [1.0, 2.0], "jac": square_der, **wrong})
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["fun", "jac"])
@pytest.mark.parametrize("pair", [True, False])
def test_masks_are_refused_by_scipy(name: str, pair: bool) -> None:
    """All but that of x0, which SciPy drops."""

    def fun(x: Any) -> Any:
        return np.ma.masked if name == "fun" else square(x)

    def jac(x: Any) -> Any:
        return np.ma.array(x, mask=[False, True]) if name == "jac" else x

    objective: Any = (lambda x: (fun(x), jac(x))) if pair else fun
    with pytest.raises(TypeError, match=rf"^{name}: expected numbers without a mask"):
        by_scipy(objective, [1.0, 2.0], jac=True if pair else jac)


@pytest.mark.parametrize("name", ["hess", "hessp", "bounds", "constraints"])
def test_refusals_by_scipy(name: str) -> None:
    values = {
        "hess": square,
        "hessp": square,
        "bounds": optimize.Bounds(0, 1),
        "constraints": optimize.LinearConstraint(np.eye(2), 0, 1),
    }
    with pytest.raises(ValueError, match=rf"^{name}: expected none"):
        optimize.minimize(square, [1.0, 2.0], jac=square_der, method=minimize, **{name: values[name]})


def test_docstring() -> None:
    doc = inspect.getdoc(minimize)
    assert doc
    for parameter in inspect.signature(minimize).parameters:
        assert re.search(rf"^{parameter} : ", doc, re.MULTILINE)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scipy", "scipy.optimize"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rmsprop_fast\[scipy\]'"):
        minimize(square, [1.0], jac=square_der)


def test_the_import_needs_no_scipy() -> None:
    code = "import sys, rmsprop_fast.minimize; assert not any(name.startswith('scipy') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
