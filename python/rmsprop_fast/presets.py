"""The conventions of other frameworks, as data.

Each function returns the hyper-parameters with which `rmsprop_fast.init` does what that framework's RMSprop does::

    state = rf.init(params, **rf.presets.keras(lr=3e-4))

The arguments are those of the framework that have a counterpart, under our names and with the framework's defaults. All
keep, with ``centered``, the mean m of the gradient and divide by the root of ``s - m**2``, which rounding can make
negative, and then NaN; `rmsprop_fast` keeps this variance itself and stays finite. Otherwise results differ only by
rounding, but for gradients so large that their square overflows: see `torch`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["keras", "mlx", "optax", "tf1", "timm", "torch"]


def torch(
    *,
    lr: float = 0.01,
    rho: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    maximize: bool = False,
) -> dict[str, Any]:
    """Hyper-parameters of ``torch.optim.RMSprop``, as of PyTorch 2.13.0.

    eps is outside the root, weight decay is added to the gradient, and the momentum buffer sums up steps without lr::

        g = g + weight_decay * p
        s = rho * s + (1 - rho) * g**2
        b = momentum * b + g / (sqrt(s) + eps)
        p = p - lr * b

    Parameters
    ----------
    lr, eps, weight_decay, momentum, centered, maximize
        As in PyTorch, and `rmsprop_fast.init`.
    rho : float, default 0.99
        PyTorch's ``alpha``.

    Returns
    -------
    dict
        Keyword arguments of `rmsprop_fast.init`.

    Notes
    -----
    In float32, s becomes infinite with a gradient beyond 1.8e19, and its parameter never moves again. PyTorch, which
    computes ``((1 - rho) * g) * g``, comes to that with a gradient beyond 1.8e20 (rho = 0.99). Where there are such
    gradients, add ``skip_nonfinite=True`` or ``clip_value=1e18``.
    """
    return {
        "lr": lr,
        "rho": rho,
        "eps": eps,
        "eps_inside_sqrt": False,
        "initial_s": 0.0,
        "centered": centered,
        "momentum": momentum,
        "lr_in_momentum": False,
        "weight_decay": weight_decay,
        "decoupled": False,
        "maximize": maximize,
    }


def keras(
    *,
    lr: float = 0.001,
    rho: float = 0.9,
    momentum: float = 0.0,
    eps: float = 1e-7,
    centered: bool = False,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    clip_global_norm: float | None = None,
    grad_scale: float = 1.0,
) -> dict[str, Any]:
    """Hyper-parameters of ``keras.optimizers.RMSprop``, also ``tf.keras``, as of Keras 3.15.1.

    Gradients are divided by grad_scale, then clipped; weight decay is decoupled from them; eps is inside the root; the
    momentum buffer sums up steps with lr::

        p = p - lr * weight_decay * p
        s = rho * s + (1 - rho) * g**2
        b = momentum * b + lr * g / sqrt(s + eps)
        p = p - b

    Parameters
    ----------
    lr, eps : float, default 0.001 and 1e-7
        Keras's ``learning_rate`` and ``epsilon``.
    rho, momentum, centered
        As in Keras, and `rmsprop_fast.init`.
    weight_decay : float, default 0
        As in Keras, whose None is 0 here.
    clip_norm, clip_value, clip_global_norm : float, optional
        Keras's ``clipnorm``, ``clipvalue`` and ``global_clipnorm``; at most one, as there, and above 0 (0 is
        None in Keras).
    grad_scale : float, default 1
        Keras's ``loss_scale_factor``, whose None is 1 here. ``fit`` also multiplies the loss by it: these are the
        gradients of the scaled loss.

    Returns
    -------
    dict
        Keyword arguments of `rmsprop_fast.init`.

    Notes
    -----
    Moving averages of the parameters (``use_ema``) and ``gradient_accumulation_steps`` have no counterpart.
    """
    return {
        "lr": lr,
        "rho": rho,
        "eps": eps,
        "eps_inside_sqrt": True,
        "initial_s": 0.0,
        "centered": centered,
        "momentum": momentum,
        "lr_in_momentum": True,
        "weight_decay": weight_decay,
        "decoupled": True,
        "grad_scale": grad_scale,
        "clip_value": clip_value,
        "clip_norm": clip_norm,
        "clip_global_norm": clip_global_norm,
    }


def tf1(
    *,
    lr: float = 0.01,
    rho: float = 0.9,
    momentum: float = 0.0,
    eps: float = 1e-10,
    centered: bool = False,
) -> dict[str, Any]:
    """Hyper-parameters of ``tf.compat.v1.train.RMSPropOptimizer``, as of TensorFlow 2.21.0.

    They are also those of the operations ``ResourceApplyRMSProp`` and ``ResourceApplyCenteredRMSProp`` under it. s
    starts at 1, so that first steps are small; eps is inside the root; the momentum buffer sums up steps with lr::

        s = rho * s + (1 - rho) * g**2
        b = momentum * b + lr * g / sqrt(s + eps)
        p = p - b

    Parameters
    ----------
    lr : float, default 0.01
        TensorFlow's ``learning_rate``, which has no default there.
    rho, eps : float, default 0.9 and 1e-10
        TensorFlow's ``decay`` and ``epsilon``.
    momentum, centered
        As in TensorFlow, and `rmsprop_fast.init`.

    Returns
    -------
    dict
        Keyword arguments of `rmsprop_fast.init`.
    """
    return {
        "lr": lr,
        "rho": rho,
        "eps": eps,
        "eps_inside_sqrt": True,
        "initial_s": 1.0,
        "centered": centered,
        "momentum": momentum,
        "lr_in_momentum": True,
    }


def optax(
    *,
    lr: float = 0.01,
    rho: float = 0.9,
    eps: float = 1e-8,
    initial_s: float = 0.0,
    eps_inside_sqrt: bool = True,
    centered: bool = False,
    momentum: float = 0.0,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> dict[str, Any]:
    """Hyper-parameters of ``optax.rmsprop``, as of optax 0.2.8.

    The momentum buffer sums up steps with lr; with ``nesterov`` the move looks one step ahead::

        s = rho * s + (1 - rho) * g**2
        u = lr * g / sqrt(s + eps)        # or lr * g / (sqrt(s) + eps)
        b = momentum * b + u
        p = p - b                         # nesterov: p - (momentum * b + u)

    Parameters
    ----------
    lr : float, default 0.01
        optax's ``learning_rate``, which has no default there.
    rho, initial_s, eps_inside_sqrt
        optax's ``decay``, ``initial_scale`` and ``eps_in_sqrt``.
    eps, centered
        As in optax, and `rmsprop_fast.init`.
    momentum : float, default 0
        As in optax, whose None is 0 here.
    nesterov : bool, default False
        As in optax, which ignores it without momentum: then False is returned.
    bias_correction : bool, default False
        As in optax, where s is divided by ``1 - rho**t`` (computed in float32, coarse for rho close to 1). Here not
        together with ``initial_s``.

    Returns
    -------
    dict
        Keyword arguments of `rmsprop_fast.init`.
    """
    return {
        "lr": lr,
        "rho": rho,
        "eps": eps,
        "eps_inside_sqrt": eps_inside_sqrt,
        "initial_s": initial_s,
        "bias_correction": bias_correction,
        "centered": centered,
        "momentum": momentum,
        "nesterov": nesterov and momentum != 0,
        "lr_in_momentum": True,
    }


def timm(
    *,
    lr: float = 0.01,
    rho: float = 0.9,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    decoupled: bool = False,
    lr_in_momentum: bool = True,
) -> dict[str, Any]:
    """Hyper-parameters of ``timm.optim.RMSpropTF``, as of timm 1.0.31.

    TensorFlow 1's RMSprop on PyTorch: s starts at 1, eps is inside the root, and the momentum buffer sums up steps with
    lr. Weight decay is added to the gradient, or decoupled from it::

        g = g + weight_decay * p                    # decoupled: p = p - lr * weight_decay * p
        s = rho * s + (1 - rho) * g**2
        b = momentum * b + lr * g / sqrt(s + eps)   # without lr, and p - lr * b, if not lr_in_momentum
        p = p - b

    Parameters
    ----------
    lr, eps, weight_decay, momentum, centered, lr_in_momentum
        As in timm, and `rmsprop_fast.init`.
    rho : float, default 0.9
        timm's ``alpha``.
    decoupled : bool, default False
        timm's ``decoupled_decay``.

    Returns
    -------
    dict
        Keyword arguments of `rmsprop_fast.init`.

    Notes
    -----
    ``timm.optim.create_optimizer_v2`` passes a momentum of 0.9. ``caution`` has no counterpart. For
    ``corrected_weight_decay`` assign ``state.weight_decay = weight_decay * lr / largest_lr`` whenever lr changes.
    """
    return {
        "lr": lr,
        "rho": rho,
        "eps": eps,
        "eps_inside_sqrt": True,
        "initial_s": 1.0,
        "centered": centered,
        "momentum": momentum,
        "lr_in_momentum": lr_in_momentum,
        "weight_decay": weight_decay,
        "decoupled": decoupled,
    }


def mlx(*, lr: float = 0.01, rho: float = 0.99, eps: float = 1e-8) -> dict[str, Any]:
    """Hyper-parameters of ``mlx.optimizers.RMSprop``, as of MLX 0.32.4.

    PyTorch's without its options, eps outside the root::

        s = rho * s + (1 - rho) * g**2
        p = p - lr * g / (sqrt(s) + eps)

    Parameters
    ----------
    lr : float, default 0.01
        MLX's ``learning_rate``, which has no default there.
    rho : float, default 0.99
        MLX's ``alpha``.
    eps : float, default 1e-8
        As in MLX (which wants more than 0), and `rmsprop_fast.init`.

    Returns
    -------
    dict
        Keyword arguments of `rmsprop_fast.init`.
    """
    return {"lr": lr, "rho": rho, "eps": eps, "eps_inside_sqrt": False, "initial_s": 0.0}
