// The docstrings of rmsprop_fast._core. Functions begin with a signature that inspect.signature reads.
#pragma once

namespace rmsprop_fast::docs {

constexpr const char* State = R"(What RMSprop keeps between steps; made by `init`.

Attributes
----------
s : array or tree of arrays
    The running mean of the squared gradient.
lr, rho, eps
    The hyper-parameters; each may be assigned between steps.
steps : int
    How many steps were taken.

Assigning an attribute while a step of another thread works on the state raises RuntimeError.)";

constexpr const char* State_s =
    R"(The running mean of the squared gradient: the live arrays, in the tree of the parameters.

Each array has the shape, dtype and memory order of its parameter. To restore a saved one, copy it in:
``state.s["w"][...] = saved``. The containers are made anew at each access, the arrays are not.)";

constexpr const char* State_lr = R"(The learning rate: a number, or a tree of numbers and arrays. Default 0.01.

A tree has the shape of the parameters'. Each of its leaves is a number, or an array of real numbers of the parameter's
shape: step sizes of each element's own. Numbers are finite and at least 0. Arrays are copied when assigned, in the
parameter's dtype; those that come back are read-only, in containers made anew: to change one leaf, assign a whole tree.

Raises
------
TypeError, ValueError
    For anything else; the old value stays.)";

constexpr const char* State_rho = R"(The decay rate of the running mean, from 0 to 1. Default 0.999.)";

constexpr const char* State_eps =
    R"(What is added to the root before dividing, finite and at least 0. Default 1e-8.

With 0, or what rounds to 0 in the parameter's dtype, a parameter whose gradients were all zero becomes NaN (0 / 0).)";

constexpr const char* State_steps = R"(How many steps were taken, from 0 to 2**63 - 1. May be assigned, to resume.)";

constexpr const char* State_map = R"(_map(self, function)
--

The tree of ``function(s, lr)`` of each leaf, where lr is a float or an array.)";

constexpr const char* init = R"(init(params, *, lr=0.01, rho=0.999, eps=1e-08)
--

Make the state of RMSprop for these parameters, with s = 0.

Parameters
----------
params : array, or nested lists, tuples and dicts of arrays
    float32 or float64 in native byte order, writeable, aligned, dense in any memory order; 0-d and empty arrays are
    fine. Each container appears once. Only the tree, shapes and layouts are kept, not the arrays.
lr : float, or a tree of numbers and arrays, default 0.01
    Learning rate, see `State.lr`.
rho : float, default 0.999
    Decay rate of the running mean of the squared gradient, from 0 to 1.
eps : float, default 1e-8
    Added to the root of the mean; finite and at least 0.

Returns
-------
State

Raises
------
TypeError, ValueError
    When something is not as described; the message names the leaf or option, what was expected and what came.)";

constexpr const char* step = R"(step(params, grads, state)
--

Update the parameters, in place, by one step of RMSprop.

For each element, in this order and each operation rounded once in the array's dtype::

    s         = rho * s + (1 - rho) * g**2
    step_size = lr / (sqrt(s) + eps)
    p         = p - step_size * g

All is checked before the first write: a refused call changes nothing. The result has the same bits for every kernel,
thread count and memory alignment, those of `rmsprop_fast.reference.step`.

Parameters
----------
params : array or tree of arrays
    As given to `init`: same tree, and for each leaf the same shape, dtype and memory order. Updated in place.
grads : array or tree of arrays
    The gradients, with the same tree, shapes, dtypes and memory orders. May be read-only and may share memory among
    themselves.
state : State
    Its `s` is updated in place, its `steps` grows by one.

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

How many threads a large step uses; small ones use one.

As set by `set_num_threads`, or else the least of the CPUs in the affinity mask and the cgroup's CPU quota, both as they
were when first needed, and OpenMP's own limit (OMP_NUM_THREADS, threadpoolctl). 1 in a forked process.)";

constexpr const char* set_num_threads = R"(set_num_threads(num_threads)
--

Use that many threads for large steps from now on. The result is the same for any number.

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
