"""RMSprop as a minimiser in SciPy's manner, also for ``scipy.optimize.minimize(..., method=rmsprop_fast.minimize)``."""

from __future__ import annotations

import inspect
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from rmsprop_fast._core import init, step

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

# The learning rate falls exponentially to this share of its start, as in fit.py: RMSprop's last steps are about as long
# as the learning rate, so it bounds how near the minimum the run ends.
FINAL_LEARNING_RATE = 1e-8

DEFAULT_EPOCHS = 20_000

# OptimizeResult.status, with the values that SciPy's BFGS uses.
CONVERGED, EXHAUSTED, NOT_FINITE, STOPPED = 0, 1, 3, 99


def minimize(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    jac: Callable[..., Any] | bool | str | None = None,
    lr: float = 0.01,
    rho: float = 0.99,
    momentum: float = 0.9,
    epochs: int | None = None,
    maxiter: int | None = None,
    tol: float = 1e-5,
    callback: Callable[..., Any] | None = None,
    disp: bool | int | None = False,
    hess: None = None,
    hessp: None = None,
    bounds: None = None,
    constraints: Any = (),
    **hyper: Any,
) -> Any:
    """Minimise a function of an array by RMSprop; needs SciPy, ``pip install 'rmsprop_fast[scipy]'``.

    Called as it stands, or by SciPy, where the options go into a dict::

        scipy.optimize.minimize(fun, x0, jac=jac, method=rmsprop_fast.minimize, options={"lr": 0.1})

    The learning rate falls exponentially, to 1e-8 of its start in the last epoch. It starts to fall at once, so too few
    epochs freeze x before it gets anywhere, and ``epochs`` is more than a limit: with another number, all steps differ.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)`` returns the objective, one real number. Its x is a copy, to keep or to change.
    x0 : array_like
        The start, one-dimensional or a single number, real and finite. It is copied to float64. A
        masked array is refused, as it is from fun and jac; called by SciPy, x0 has lost its mask before we see it.
    args : tuple, default ()
        Further arguments of fun and jac. Anything but a tuple counts as one argument.
    jac : callable, True, '2-point' or None, default None
        ``jac(x, *args)`` returns the gradient. True: fun returns the pair of objective and gradient. '2-point' or None:
        forward differences by `scipy.optimize.approx_fprime`, n + 1 more calls of fun an epoch. SciPy gives None in the
        place of '3-point' and 'cs', too, so these cannot be refused there.
    lr : float, default 0.01
        The learning rate at the start, a number. With the other defaults no element of x gets further than about 10000
        times lr: a minimum that is further away takes a larger lr, or variables in other units.
    rho : float, default 0.99
        As in `rmsprop_fast.init`.
    momentum : float, default 0.9
        As in `rmsprop_fast.init`, where the default is 0. Valleys oblique to the axes gain by it; where they are
        very narrow (condition 1e6), 0.99 and 50000 epochs.
    epochs : int, default 20000
        How many steps are taken, at most.
    maxiter : int, optional
        SciPy's name for epochs. Give one of the two.
    tol : float, default 1e-5
        The run ends with success when no element of the gradient is larger, in absolute value.
    callback : callable, optional
        Called after each step as ``callback(xk)``, or as ``callback(intermediate_result=...)`` with an OptimizeResult
        of x and fun if that is the name of its one parameter. May raise StopIteration to end the run; what it returns
        is ignored, as by most of SciPy's methods. As there, its signature must be one that `inspect` finds.
    disp : bool, default False
        Print a summary at the end, as SciPy's methods do: there, too, the message of a run that failed is not printed
        but an OptimizeWarning.
    hess : None
        SciPy passes it. Refused when set, as are the next three: RMSprop has no use for it.
    hessp : None
        See hess.
    bounds : None
        See hess.
    constraints : empty sequence or None, default ()
        See hess.
    hyper : optional
        Other hyper-parameters of `rmsprop_fast.init`, such as ``centered=True``; not ``maximize``, ``skip_nonfinite``.

    Returns
    -------
    scipy.optimize.OptimizeResult
        ``x``, ``fun`` and ``jac`` (the gradient) of the last point where objective and gradient were finite; ``nit``,
        the number of steps; ``nfev`` and ``njev``, the calls; ``success``; ``status`` and ``message``, why it ended:

        - 0: the gradient is within tol, the only success
        - 1: the epochs were exhausted
        - 3: an objective or gradient was inf or NaN
        - 99: the callback raised StopIteration

    Raises
    ------
    TypeError, ValueError
        When an argument, or what fun and jac return, is not as described; the message names it, what was expected and
        what came.
    ModuleNotFoundError
        Without SciPy.

    References
    ----------
    T. Tieleman and G. Hinton, "Lecture 6.5 - RMSProp", COURSERA: Neural Networks for Machine Learning, 2012.

    Examples
    --------
    >>> import rmsprop_fast as rf
    >>> from scipy.optimize import rosen, rosen_der
    >>> result = rf.minimize(rosen, [-1.2, 1.0], jac=rosen_der)
    >>> result.success, result.x.round(6)
    (True, array([1., 1.]))
    """
    try:
        from scipy.optimize import OptimizeResult, OptimizeWarning, approx_fprime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "minimize: expected SciPy, got none; pip install 'rmsprop_fast[scipy]'", name=error.name
        ) from None

    if not callable(fun):
        raise TypeError(f"fun: expected a function, got {fun!r}")
    if jac is None or jac is False:
        jac = "2-point"
    if not (callable(jac) or jac is True or (isinstance(jac, str) and jac == "2-point")):
        raise ValueError(f"jac: expected a function, True, '2-point' or None, got {jac!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback: expected a function or None, got {callback!r}")
    try:  # SciPy's rule, and its type of error
        by_name = callback is not None and set(inspect.signature(callback).parameters) == {"intermediate_result"}
    except ValueError:
        raise ValueError(f"callback: expected a function with a signature to inspect, got {callback!r}") from None
    for name, unused in {"hess": hess, "hessp": hessp, "bounds": bounds, "constraints": constraints or None}.items():
        if unused is not None:
            raise ValueError(f"{name}: expected none, as RMSprop has no use for it, got {unused!r}")
    for name, limit in {"epochs": epochs, "maxiter": maxiter}.items():
        if isinstance(limit, bool) or not isinstance(limit, (int, np.integer, type(None))):
            raise TypeError(f"{name}: expected an integer of at least 1, got {limit!r}")
        if limit is not None and limit < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {limit}")
    if epochs is not None and maxiter is not None:
        raise ValueError(f"maxiter: expected none beside epochs, its other name, got {maxiter} and epochs={epochs}")
    epochs = int(epochs or maxiter or DEFAULT_EPOCHS)
    if isinstance(tol, bool) or not isinstance(tol, (int, float, np.integer, np.floating)):
        raise TypeError(f"tol: expected a finite number of at least 0, got {tol!r}")
    if not 0 <= tol < math.inf:
        raise ValueError(f"tol: expected a finite number of at least 0, got {tol}")
    if not isinstance(disp, (int, np.bool_, np.integer, type(None))):  # SciPy's methods take numbers, too
        raise TypeError(f"disp: expected True or False, got {disp!r}")
    if hyper.get("maximize"):
        raise ValueError(f"maximize: expected False (to maximise, minimise -fun), got {hyper['maximize']!r}")
    if hyper.get("skip_nonfinite"):
        raise ValueError(f"skip_nonfinite: expected False (x would stand still), got {hyper['skip_nonfinite']!r}")
    x = _real_array("x0", x0)
    if x.ndim > 1:
        raise ValueError(f"x0: expected one dimension, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"x0: expected finite numbers, got {x}")
    state = init(x, lr=lr, rho=rho, momentum=momentum, **hyper)
    start_lr = state.lr
    if not isinstance(start_lr, float):  # init takes arrays, too
        raise TypeError(f"lr: expected a finite number of at least 0, got {lr!r}")

    arguments = args if isinstance(args, tuple) else (args,)
    calls = {"fun": 0, "jac": 0}

    def objective(point: NDArray[np.float64]) -> Any:
        calls["fun"] += 1
        return fun(point.copy(), *arguments)  # a copy, which fun may keep or change

    def evaluate() -> tuple[float, NDArray[np.float64]]:
        """Return objective and gradient at x; a gradient of NaN if the objective is not finite."""
        result, gradient = objective(x), None
        if jac is True:
            calls["jac"] += 1
            if not isinstance(result, (tuple, list)) or len(result) != 2:
                raise TypeError(f"fun: expected a pair of objective and gradient, as jac is True, got {result!r}")
            result, gradient = result
        value = _real_number(result)
        if not math.isfinite(value):
            return value, np.full_like(x, math.nan)
        if jac is not True:
            calls["jac"] += 1
            if callable(jac):
                gradient = jac(x.copy(), *arguments)
            else:  # with the increments of SciPy's own '2-point'
                increments = math.sqrt(np.finfo(np.float64).eps) * np.maximum(1, np.abs(x))
                gradient = approx_fprime(x, lambda point: _real_number(objective(point)), increments)
        gradient = _real_array("fun" if jac is True else "jac", gradient)
        if gradient.shape != x.shape:
            name = "fun" if jac is True else "jac"
            raise ValueError(f"{name}: expected a gradient of shape {x.shape}, got shape {gradient.shape}")
        return value, gradient

    decay = FINAL_LEARNING_RATE ** (1 / epochs)
    epoch = 0
    value, gradient = evaluate()
    good = x.copy(), value, gradient
    while True:
        largest = float(np.abs(gradient).max(initial=0))
        if not (math.isfinite(value) and math.isfinite(largest)):
            status = NOT_FINITE
            what = f"objective is {value}" if not math.isfinite(value) else "gradient is not finite"
            message = f"The {what} after {epoch} epochs" + ("; x is the last point before." if epoch else ", at x0.")
            break
        good = x.copy(), value, gradient
        if callback is not None and epoch > 0:
            try:
                if by_name:
                    callback(intermediate_result=OptimizeResult(x=x.copy(), fun=value))
                else:
                    callback(x.copy())
            except StopIteration:
                status, message = STOPPED, "`callback` raised `StopIteration`."  # SciPy's words
                break
        if largest <= tol:
            status, message = CONVERGED, f"The largest element of the gradient, {largest:.3g}, is within tol={tol:g}."
            break
        if epoch == epochs:
            status = EXHAUSTED
            message = (
                f"The largest element of the gradient, {largest:.3g}, is above tol={tol:g} after all epochs={epochs}; "
                "try more of them, another lr, or momentum nearer to 1."
            )
            break
        step(x, gradient, state)
        epoch += 1
        state.lr = start_lr * decay**epoch
        value, gradient = evaluate()

    if disp:
        if status in (CONVERGED, STOPPED):
            print(message)
        else:
            warnings.warn(message, OptimizeWarning, stacklevel=2)
        print(f"         Current function value: {good[1]:f}")
        print(f"         Iterations: {epoch}")
        print(f"         Function evaluations: {calls['fun']}")
        print(f"         Gradient evaluations: {calls['jac']}")
    return OptimizeResult(
        x=good[0],
        fun=good[1],
        jac=good[2],
        nit=epoch,
        nfev=calls["fun"],
        njev=calls["jac"],
        success=status == CONVERGED,
        status=status,
        message=message,
    )


def _refuse_masks(name: str, value: Any) -> None:
    """Raise TypeError for a masked array, also inside a list: NumPy would drop its mask in silence."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, np.ma.MaskedArray):
            raise TypeError(f"{name}: expected numbers without a mask, got {type(item).__name__}")


def _real_number(value: Any) -> float:
    """Return what fun returned as a float; arrays of one element count as their element, as in SciPy."""
    _refuse_masks("fun", value)
    try:
        return float(np.asarray(value).item())
    except (TypeError, ValueError):
        raise TypeError(f"fun: expected one real number, got {value!r}") from None


def _real_array(name: str, value: Any) -> NDArray[np.float64]:
    """Return a float64 copy, a single number as an array of one element."""
    _refuse_masks(name, value)
    try:
        array = np.atleast_1d(np.asarray(value))
        if array.dtype.kind not in "biuf":
            raise TypeError
        return np.array(array, np.float64, order="C")
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected real numbers, got {value!r}") from None
