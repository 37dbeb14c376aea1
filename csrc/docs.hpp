// The docstrings of rmsprop_fast._core. Functions begin with a signature that inspect.signature reads.
#pragma once

#include <string_view>

namespace rmsprop_fast::docs {

constexpr const char* State = R"(What RMSprop keeps between steps; made by `init`.

Attributes
----------
s : array or tree of arrays
    The running mean of the squared gradient.
variance, grad_avg, momentum_buffer : array, tree of arrays, or None
    What else is kept: the first two with ``centered``, the last with ``momentum``.
lr, rho, eps, ...
    The hyper-parameters of `init`. Each may be assigned between steps but ``centered`` and ``initial_s``, and but
    ``momentum`` above 0 if `init` had 0.
steps, skipped : int
    How many steps were taken, and how many were skipped by ``skip_nonfinite``.
grad_norm : float or None
    The norm of the whole gradient at the last step, if that needed it.

Assigning an attribute while a step of another thread works on the state raises RuntimeError.)";

constexpr const char* State_s =
    R"(The running mean of the squared gradient: the live arrays, in the tree of the parameters.

Each array has the shape and memory order of its parameter, and its dtype, but float32 for float16 and bfloat16. To
restore a saved one, copy it in: ``state.s["w"][...] = saved``. The containers are made anew at each access, the arrays
are not.

With ``centered`` they are new, read-only arrays of ``variance + grad_avg**2``; restore those two instead.)";

constexpr const char* State_variance =
    R"(With ``centered``, the running variance of the gradient: live arrays as those of `s`. Otherwise None.)";

constexpr const char* State_grad_avg =
    R"(With ``centered``, the running mean of the gradient: live arrays as those of `s`. Otherwise None.)";

constexpr const char* State_momentum_buffer =
    R"(With ``momentum``, the momentum buffer: live arrays as those of `s`. None if `init` had ``momentum=0``.)";

constexpr const char* State_lr = R"(The learning rate: a number, or a tree of numbers and arrays. Default 0.01.

A tree has the shape of the parameters'. Each of its leaves is a number, or an array of real numbers of the parameter's
shape: step sizes of each element's own. Numbers are finite and at least 0. Arrays are copied when assigned, in the
dtype of `s`; those that come back are read-only, in containers made anew: to change one leaf, assign a whole tree.

Raises
------
TypeError, ValueError
    For anything else; the old value stays.)";

constexpr const char* State_steps = R"(How many steps were taken, from 0 to 2**63 - 1. May be assigned, to resume.)";

constexpr const char* State_skipped =
    R"(How many steps ``skip_nonfinite`` skipped, from 0 to 2**63 - 1. May be assigned, to resume.)";

constexpr const char* State_grad_norm =
    R"(The Euclidean norm of the whole gradient at the last step, after ``grad_scale`` and before clipping.

None if that step did not need it, which ``clip_norm``, ``clip_global_norm`` and ``skip_nonfinite`` do.)";

// The hyper-parameters but lr.
struct Option {
  const char* name;
  const char* text;
};
constexpr Option options[] = {
    {"rho", R"(The decay rate of the running means, from 0 to 1. Default 0.999.)"},
    {"eps", R"(What is added to the root before dividing, finite and at least 0. Default 1e-8.

With 0, or what rounds to 0 in the dtype of `s`, a parameter whose gradients were all zero becomes NaN (0 / 0).)"},
    {"momentum", R"(The decay rate of the momentum buffer, from 0 to 1. Default 0, and then there is none.

    b = momentum * b + step_size * g
    p = p - b

May be assigned if `init` was given more than 0.)"},
    {"nesterov", R"(Move by ``step_size * g + momentum * b``, with the new b, instead of b? Default False.

As optax does; needs ``momentum``. Y. Nesterov's method as in I. Sutskever et al., "On the importance of initialization
and momentum in deep learning", ICML 2013.)"},
    {"lr_in_momentum", R"(Does the momentum buffer sum up steps that include lr? Default False.

True, as in TensorFlow, Keras and optax::

    b = momentum * b + (lr / D) * g
    p = p - b

False, as in PyTorch::

    b = momentum * b + (1 / D) * g
    p = p - lr * b

with D the divisor, ``sqrt(s) + eps``. Without ``momentum`` it makes no difference.)"},
    {"centered", R"(Divide by the standard deviation of the gradient? Default False; decided by `init`.

Keeps the running mean m of the gradient, `grad_avg`, and in the place of s the running variance, `variance`::

    v = rho * v + rho * (1 - rho) * (g - m)**2
    m = rho * m + (1 - rho) * g

which is ``s - m**2`` of A. Graves, "Generating Sequences With Recurrent Neural Networks", 2013, and never negative. Under
a constant gradient it shrinks to nothing all the same, and steps grow until ``eps`` bounds them.)"},
    {"eps_inside_sqrt", R"(Divide by ``sqrt(s + eps)`` instead of ``sqrt(s) + eps``? Default False.)"},
    {"initial_s",
     R"(What s starts at, finite and at least 0. Default 0; decided by `init`. TensorFlow 1 and timm use 1.)"},
    {"bias_correction", R"(Let the running means forget that they started at 0? Default False.

In step t, counted from 1, ``(rho - rho**t) / (1 - rho**t)`` stands for rho everywhere. So s holds the corrected mean, that
which other implementations get by a division by ``1 - rho**t``. ``initial_s`` must be 0, and rho below 1.
With ``centered``, one gradient has no variance: the divisor of step 1 is ``eps`` alone, which should not be tiny then.

D. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, section 3.)"},
    {"weight_decay",
     R"(How strongly parameters are pulled to 0, finite and at least 0. Default 0. See ``decoupled``.)"},
    {"decoupled", R"(How ``weight_decay`` pulls. Default False.

False: it is added to the gradient (L2), ``g = g + weight_decay * p``. True: before the step, and apart from it,
``p = p - lr * weight_decay * p``, as in I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.)"},
    {"maximize", R"(Ascend instead of descend? Default False.)"},
    {"grad_scale", R"(What gradients are divided by first (loss scaling), above 0. Default 1.)"},
    {"clip_value",
     R"(Clamp every gradient to at most this, either side of 0. Default None: do not. One ``clip_`` at a time.)"},
    {"clip_norm", R"(Scale the gradients of each leaf so that their norm is at most this. Default None: do not.

Multiplies them by ``min(1, clip_norm / norm)``, with the Euclidean norm after ``grad_scale``; if that overflows, by 0.
One ``clip_`` at a time.)"},
    {"clip_global_norm",
     R"(Scale all gradients so that the norm of the whole tree is at most this. Default None: do not.

Multiplies them by ``min(1, clip_global_norm / norm)``, with the Euclidean norm after ``grad_scale``; if that overflows,
by 0. One ``clip_`` at a time. R. Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013.)"},
    {"skip_nonfinite", R"(Skip steps with a gradient that is inf or NaN, or whose square overflows? Default False.

Such a step changes no array, and counts in `skipped` instead of `steps`. Looked at are the gradients after division by
``grad_scale`` and clipping by a norm, and this norm.)"},
};

constexpr const char* option(const char* name) {
  const Option* found = options;
  while (std::string_view(found->name) != name) ++found;
  return found->text;
}

constexpr const char* State_map = R"(_map(self, function)
--

The tree of ``function(s, lr)`` of each leaf, where lr is a float or an array.)";

constexpr const char* init =
    R"(init(params, *, lr=0.01, rho=0.999, eps=1e-08, momentum=0.0, nesterov=False, lr_in_momentum=False, centered=False, eps_inside_sqrt=False, initial_s=0.0, bias_correction=False, weight_decay=0.0, decoupled=False, maximize=False, grad_scale=1.0, clip_value=None, clip_norm=None, clip_global_norm=None, skip_nonfinite=False)
--

Make the state of RMSprop for these parameters.

Each hyper-parameter is also an attribute of the state, whose docstring has the equations and the source:
``help(rmsprop_fast.State.centered)``. `rmsprop_fast.presets` has what other frameworks use.

Parameters
----------
params : array, or nested lists, tuples and dicts of arrays
    float32, float64, float16 or bfloat16 (of ml_dtypes) in native byte order, writeable, aligned, dense in any memory
    order; 0-d and empty arrays are fine. Each container appears once. Only the tree, shapes and layouts are kept, not the
    arrays.
lr : float, or a tree of numbers and arrays, default 0.01
    Learning rate, see `State.lr`.
rho : float, default 0.999
    Decay rate of the running mean of the squared gradient, from 0 to 1.
eps : float, default 1e-8
    Added to the root of the mean; finite and at least 0.
momentum : float, default 0
    Decay rate of the momentum buffer, from 0 to 1.
nesterov : bool, default False
    Nesterov's momentum; needs momentum.
lr_in_momentum : bool, default False
    Whether the momentum buffer sums up steps (TensorFlow, Keras, optax) or steps without lr (PyTorch).
centered : bool, default False
    Divide by the standard deviation of the gradient.
eps_inside_sqrt : bool, default False
    Divide by ``sqrt(s + eps)``.
initial_s : float, default 0
    What s starts at.
bias_correction : bool, default False
    Correct s for having started at 0; needs initial_s = 0 and rho below 1.
weight_decay : float, default 0
    Pull to 0, finite and at least 0.
decoupled : bool, default False
    Whether weight_decay acts on the parameter, or on the gradient (L2).
maximize : bool, default False
    Ascend.
grad_scale : float, default 1
    What gradients are divided by first, above 0.
clip_value, clip_norm, clip_global_norm : float, optional
    Limit of each gradient, of each leaf's norm, of the whole tree's norm; at most one of them.
skip_nonfinite : bool, default False
    Skip steps whose gradients are not finite.

Returns
-------
State

Raises
------
TypeError, ValueError
    When something is not as described, or two hyper-parameters contradict each other; the message names the leaf or
    option, what was expected and what came.)";

constexpr const char* step = R"(step(params, grads, state)
--

Update the parameters, in place, by one step of RMSprop.

For each element, in this order and each operation rounded once::

    s         = rho * s + (1 - rho) * g**2
    step_size = lr / (sqrt(s) + eps)
    p         = p - step_size * g

or what the hyper-parameters of `init` make of it; ``python -m rmsprop_fast family`` prints the equations in force. The
compute type is float64 for float64 and float32 for all others; float16 and bfloat16 are rounded to the nearest, ties to
even, when they are stored.

All is checked before the first write: a refused call changes nothing. The result has the same bits for every kernel,
thread count and memory alignment, those of `rmsprop_fast.reference.step`.

Parameters
----------
params : array or tree of arrays
    As given to `init`: same tree, and for each leaf the same shape, dtype and memory order. Updated in place.
grads : array or tree of arrays
    The gradients, with the same tree, shapes, dtypes and memory orders; those of float32 parameters may also be float16
    or bfloat16. May be read-only and may share memory among themselves.
state : State
    Its arrays are updated in place, its `steps` grows by one (or its `skipped`, see ``skip_nonfinite``).

Raises
------
TypeError
    A wrong container, something that is no NumPy array, a masked array, or another dtype or byte order.
ValueError
    A wrong shape, size of a container or memory order; params or state that are read-only, not aligned, or share memory
    with each other or the gradients.
RuntimeError
    The state is in use by a step in another thread.

References
----------
T. Tieleman and G. Hinton, "Lecture 6.5 - RMSProp", COURSERA: Neural Networks for Machine Learning, 2012.)";

constexpr const char* ParamGroups =
    R"(The parameter groups of a torch optimizer, as the kernel sees them; made by `param_groups`.)";

constexpr const char* param_groups = R"(param_groups(tensor_type, increment_version)
--

Make a ParamGroups for tensors of that type, torch.Tensor, and its subclasses.

``increment_version(tensors)``, a builtin function, tells autograd that they are changed.)";

constexpr const char* ParamGroups_require_legal = R"(require_legal(self, group)
--

Raise TypeError or ValueError if the hyper-parameters of a group are not legal.)";

constexpr const char* ParamGroups_step = R"(step(self, param_groups, state, fit, norm, threads)
--

Take a step of all groups.

Parameters
----------
param_groups, state : list of dict, dict
    Those of the optimizer.
fit : callable
    Where tensors are new or cannot be taken as they are, ``fit(group, index, gradient)`` returns those to be taken for
    that parameter: itself, its gradient, its step count, square_avg or variance, grad_avg, momentum_buffer; the last two
    may be None.
norm : callable
    Where parameters were replaced and the norm of the whole gradient is needed, ``norm()`` returns it if other processes
    have parts of the gradient, or else None.
threads : int
    How many threads to use at most.)";

constexpr const char* kernels = R"(kernels()
--

Names of the kernels that this CPU can run, best first.

Returns
-------
list of str
    Of 'avx512', 'avx2' and 'sse2' on x86-64; 'neon' on aarch64; 'generic' elsewhere.)";

constexpr const char* get_kernel = R"(get_kernel()
--

Name of the kernel in use: the best one, unless `set_kernel` or the variable RMSPROP_FAST_KERNEL named another.)";

constexpr const char* set_kernel = R"(set_kernel(name)
--

Use another kernel from now on, in all threads.

Parameters
----------
name : str
    One of `kernels()`.

Raises
------
ValueError
    For a kernel that is unknown or that this CPU lacks; the message lists the choices.)";

constexpr const char* get_num_threads = R"(get_num_threads()
--

How many threads a step uses at most; fewer where, as steps find out, others cost more than they save.

As set by `set_num_threads`, or else the least of the CPUs in the affinity mask and the cgroup's CPU quota, both as they
were when first needed, and OpenMP's own limit (OMP_NUM_THREADS, threadpoolctl). 1 in a forked process.)";

constexpr const char* set_num_threads = R"(set_num_threads(num_threads)
--

Use at most that many threads from now on. The result is the same for any number.

Parameters
----------
num_threads : int or None
    From 1 to 1024; None for the default, see `get_num_threads`.

Raises
------
ValueError
    For anything else.
RuntimeError
    For more than 1 in a forked process, where OpenMP's threads do not exist, or in a build without OpenMP.)";

constexpr const char* info = R"(info()
--

What this build is and how it runs.

Returns
-------
dict
    ``version``, ``kernel`` (in use), ``kernels`` (possible), ``threads`` (of a large step), ``openmp`` (date of the
    OpenMP specification, or None in a build without) and ``compiler``.)";

}  // namespace rmsprop_fast::docs
