"""Linear regression by RMSprop as a scikit-learn estimator, for its pipelines and searches; needs scikit-learn."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from rmsprop_fast.regression.fitting import fit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


class RMSpropRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """`rmsprop_fast.fit` in scikit-learn's conventions.

    Parameters
    ----------
    lr, rho, eps, epochs, batch_size, seed
        As in `rmsprop_fast.fit`.

    Attributes
    ----------
    coef_ : array of shape (k,)
    intercept_ : float
    n_iter_ : int
        Epochs.
    model_ : LinearModel
        All that the fit came to, such as standard errors.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.
    """

    def __init__(
        self,
        *,
        lr: float = 0.5,
        rho: float = 0.99,
        eps: float = 1e-8,
        epochs: int = 1000,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        self.lr = lr
        self.rho = rho
        self.eps = eps
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed

    def fit(self, X: ArrayLike, y: ArrayLike) -> RMSpropRegressor:  # noqa: N803
        """Fit to X of shape (n, k) and y of shape (n,).

        Raises ValueError as `rmsprop_fast.fit` does; warns with ConvergenceWarning if the fit does not converge.
        """
        columns, target = validate_data(self, X, y, dtype="float64", y_numeric=True, ensure_min_samples=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # they come again, in scikit-learn's category
            names = getattr(self, "feature_names_in_", None)
            self.model_ = fit(columns, target, feature_names=names, **self.get_params())
        for warning in self.model_.warnings:
            warnings.warn(warning, ConvergenceWarning, stacklevel=2)
        self.coef_ = self.model_.coefficients
        self.intercept_ = self.model_.intercept
        self.n_iter_ = self.model_.epochs
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Return the predictions for X of shape (n, k)."""
        check_is_fitted(self)
        columns: Any = validate_data(self, X, dtype="float64", reset=False)
        return self.intercept_ + columns @ self.coef_  # type: ignore[no-any-return]
