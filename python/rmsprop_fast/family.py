"""The equations that a state obeys, as text that is also NumPy code."""

from __future__ import annotations

from rmsprop_fast._core import State

__all__ = ["equations"]


def equations(state: State) -> str:
    """Write out the equations of a step with the state's hyper-parameters.

    Parameters
    ----------
    state : State
        As made by `rmsprop_fast.init`.

    Returns
    -------
    str
        Lines of NumPy code: the numbers, the arrays as they start, and a step of one array ``p`` with gradient ``g``.
        An lr that is a tree has no value there. Mathematically what `rmsprop_fast.step` does; `rmsprop_fast.reference`
        has the order in which it rounds.

    Raises
    ------
    TypeError
        For anything but a state.

    Examples
    --------
    >>> import numpy as np, rmsprop_fast as rf
    >>> print(rf.equations(rf.init(np.zeros(3), eps_inside_sqrt=True)))
    lr, rho, eps = 0.01, 0.999, 1e-08
    s = 0.0
    <BLANKLINE>
    # step t = 1, 2, ...
    s = rho * s + (1 - rho) * g**2
    step_size = lr / sqrt(s + eps)
    p = p - step_size * g
    """
    if not isinstance(state, State):
        raise TypeError(f"state: expected a rmsprop_fast.State, got {type(state).__name__}")
    numbers = ["lr"] if isinstance(state.lr, float) else []
    numbers += ["rho", "eps"]
    starts = [f"v, m = {state.initial_s}, 0" if state.centered else f"s = {state.initial_s}"]
    lines = ["# step t = 1, 2, ..."]

    if state.grad_scale != 1:
        numbers.append("grad_scale")
        lines.append("g = g / grad_scale")
    for limit, of in (("clip_norm", "each array"), ("clip_global_norm", "all arrays together")):
        if getattr(state, limit) is not None:
            numbers.append(limit)
            lines += [f"norm = sqrt(sum(g**2))  # of {of}", f"g = min(1, {limit} / norm) * g"]
    if state.skip_nonfinite:
        lines.append("# unless all g**2 are finite, the step ends here, and counts as skipped")
    if state.clip_value is not None:
        numbers.append("clip_value")
        lines.append("g = clip(g, -clip_value, clip_value)")
    if state.maximize:
        lines.append("g = -g")
    if state.weight_decay:
        numbers.append("weight_decay")
        lines.append("p = p - lr * weight_decay * p" if state.decoupled else "g = g + weight_decay * p")

    rho = "rho"
    if state.bias_correction:
        rho = "rho_t"
        lines.append("rho_t = (rho - rho**t) / (1 - rho**t)")
    if state.centered:
        lines.append(f"v = {rho} * v + {rho} * (1 - {rho}) * (g - m)**2")
        lines.append(f"m = {rho} * m + (1 - {rho}) * g")
    else:
        square = "mean(g**2, axis=tuple(range(1, g.ndim)), keepdims=True)" if state.rowwise else "g**2"
        lines.append(f"s = {rho} * s + (1 - {rho}) * {square}")
    mean = "v" if state.centered else "s"
    divisor = f"sqrt({mean} + eps)" if state.eps_inside_sqrt else f"(sqrt({mean}) + eps)"

    if state.momentum_buffer is None:
        lines += [f"step_size = lr / {divisor}", "p = p - step_size * g"]
    else:
        numbers.append("momentum")
        starts.append("b = 0")
        lines.append(f"step_size = {'lr' if state.lr_in_momentum else '1'} / {divisor}")
        lines.append("b = momentum * b + step_size * g")
        move = "(step_size * g + momentum * b)" if state.nesterov else "b"
        lines.append(f"p = p - {move}" if state.lr_in_momentum else f"p = p - lr * {move}")

    values = ", ".join(str(getattr(state, name)) for name in numbers)
    return "\n".join([f"{', '.join(numbers)} = {values}", *starts, "", *lines])
