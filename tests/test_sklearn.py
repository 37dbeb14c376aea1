"""The scikit-learn estimator keeps scikit-learn's conventions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.estimator_checks import check_estimator

import regression_problems
import rmsprop_fast as rf
from rmsprop_fast.sklearn import RMSpropRegressor


def test_check_estimator() -> None:
    """The one check that is skipped asks for an environment variable of SciPy's, for arrays that are not NumPy's."""
    results = check_estimator(RMSpropRegressor(), on_skip=None)
    skipped = [result["check_name"] for result in results if result["status"] == "skipped"]
    assert skipped in ([], ["check_array_api_input"])
    assert len(results) > 40


def test_it_is_the_fit_of_the_package() -> None:
    problem = regression_problems.NIST["Longley"]
    regressor = RMSpropRegressor(lr=0.4, seed=3).fit(problem.features, problem.target)
    model = rf.fit(problem.features, problem.target, lr=0.4, seed=3)
    np.testing.assert_array_equal(regressor.coef_, model.coefficients)
    assert regressor.intercept_ == model.intercept
    assert regressor.n_iter_ == model.epochs
    np.testing.assert_array_equal(regressor.predict(problem.features), model.predict(problem.features))
    assert regressor.score(problem.features, problem.target) == pytest.approx(model.r2, rel=1e-12)


def test_in_a_pipeline_as_scikit_learns_own() -> None:
    features, target = load_diabetes(return_X_y=True)
    features = features[:, [0, 2, 3, 8]]
    scores = [
        cross_val_score(make_pipeline(PolynomialFeatures(2, include_bias=False), regressor), features, target)
        for regressor in (RMSpropRegressor(), LinearRegression())
    ]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-9)


def test_it_warns_when_it_does_not_converge() -> None:
    problem = regression_problems.NIST["Longley"]
    with pytest.warns(ConvergenceWarning, match="did not converge in 3 epochs"):
        RMSpropRegressor(epochs=3).fit(problem.features, problem.target)


def test_names_of_a_frame() -> None:
    frame = pd.DataFrame({"a": [1.0, 2, 4], "b": [1.0, 3, 2]})
    regressor = RMSpropRegressor().fit(frame, [1.0, 2.0, 3.0])
    assert list(regressor.feature_names_in_) == ["a", "b"]
    assert regressor.model_.feature_names == ("a", "b")
