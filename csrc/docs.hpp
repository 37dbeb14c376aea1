// The docstrings of rmsprop_fast._core. Functions begin with a signature that inspect.signature reads.
#pragma once

namespace rmsprop_fast::docs {

constexpr const char* State = R"(What RMSprop keeps between steps; made by `init`.

Attributes
----------
s : array or tree of arrays
    The running mean of the squared gradient. Once inf, it stays so: see `step`.
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

Each array has the shape and memory order of its parameter, and its dtype, but float32 for float16 and bfloat16. The
containers are made anew at each access, and refuse to be changed; namedtuples and OrderedDicts are such again, other
subclasses are not. ``copy.deepcopy(state.s)`` is a plain tree to keep.

To restore one, assign it: its values are copied into the live arrays, all of them or none, and rounded to their dtype.
They are real numbers of at least 0, or what else a step can lead to, inf and NaN. `step` says when it is inf.

With ``centered`` these are new, read-only arrays of ``variance + grad_avg**2``; restore those two instead. With a
``state_dtype`` they are new, read-only arrays, too, which may be assigned.)";

constexpr const char* State_variance =
    R"(With ``centered``, the running variance of the gradient: live arrays, to be assigned as `s`. Otherwise None.)";

constexpr const char* State_grad_avg =
    R"(With ``centered``, the running mean of the gradient: live arrays, to be assigned as `s`, of either sign. Else None.)";

constexpr const char* State_momentum_buffer =
    R"(With ``momentum``, the momentum buffer: live arrays, to be assigned as `s`, of either sign. None if `init` had 0.)";

constexpr const char* State_low_order_bits =
    R"(With ``low_bits``, the bits below those of bfloat16 parameters: live arrays of uint8 or uint16, in the tree and shapes of
the parameters, None for parameters of other types. May be assigned, in the same dtypes. None if `init` had ``low_bits=0``.)";

constexpr const char* State_nbytes = R"(How many bytes of memory the state keeps for its parameters.)";

constexpr const char* State_steps =
    R"(How many steps were taken, for all parameters as one, from 0 to 2**63 - 1. May be assigned, to resume.)";

constexpr const char* State_skipped =
    R"(How many steps ``skip_nonfinite`` skipped, from 0 to 2**63 - 1. May be assigned, to resume.)";

constexpr const char* State_grad_norm =
    R"(The Euclidean norm of the whole gradient at the last step, after ``grad_scale`` and before clipping.

None if that step did not need it, which ``clip_norm``, ``clip_global_norm`` and ``skip_nonfinite`` do.)";

constexpr const char* State_catch_up = R"(catch_up(self)
--

Bring `s` of all rows up to date, with ``lazy='catch_up'``: it decays by the steps that each row has missed.

Costs as much as a pass over `s`. Changes nothing in other states.)";

constexpr const char* State_last =
    R"(With ``lazy='catch_up'``, for each leaf the step in which each row was touched last, counted from 1, and behind them the
number of steps in which the leaf had a gradient. Otherwise None.)";

constexpr const char* Rows = R"(A sparse gradient: some rows of it; all others are zero.

Parameters
----------
rows : array of shape (k,), int32 or int64
    Which rows of the parameter, from 0; in any order. The values of a row that appears more than once are added up, in
    the order in which they come.
values : array of shape (k, ...)
    Their gradients: of a parameter of shape (n, ...), with a type that `step` takes as a gradient of it. Dense, with each
    row in the memory order of the parameter's rows.

Notes
-----
A leaf of the gradients of `step`, like any other. What is wrong with it is said there. The first axis of the parameter
must be the outermost in memory. ``lazy`` of `init` says what becomes of the other rows.

Norms (``clip_norm``, ``clip_global_norm``) and ``skip_nonfinite`` are those of the rows after adding up; ``clip_value`` clamps
what was added up. With lazy='rows', momentum and weight decay act on the rows that are there.)";

constexpr const char* Rows_init = R"(__init__(self, rows, values)
--

)";

constexpr const char* Rows_rows = R"(Which rows, as given.)";

constexpr const char* Rows_values = R"(Their gradients, as given.)";

constexpr const char* State_map = R"(_map(self, function)
--

The tree of ``function(s, lr)`` of each leaf, where lr is a float or an array.)";

// Around signature() and parameters().
constexpr const char* init = R"(Make the state of RMSprop for these parameters.

Each hyper-parameter is also an attribute of the state, whose docstring has the equations and the source:
``help(rmsprop_fast.State.centered)``. `rmsprop_fast.presets` has what other frameworks use.

Parameters
----------
params : array, or nested lists, tuples and dicts of arrays
    float32, float64, float16 or bfloat16 (of ml_dtypes) in native byte order, writeable, aligned, dense in any memory
    order; 0-d and empty arrays are fine. Each container appears once. Only the tree, shapes and layouts are kept, not the
    arrays.
)";

constexpr const char* init_returns = R"(
Returns
-------
State

Raises
------
TypeError, ValueError
    When something is not as described, or two hyper-parameters contradict each other; the message names the leaf or
    option, what was expected and what came.

Notes
-----
A gradient whose square overflows stops its parameter for good, unless ``skip_nonfinite`` or a ``clip_`` option prevents
it: see `step`.)";

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
    The gradients, with the same tree, shapes and memory orders: float64 for float64 parameters, and float32, float16 or
    bfloat16 for all others. May be read-only and may share memory among themselves. That of a 0-d parameter may also be
    a number, which is rounded to the parameter's dtype. `Rows`, or a matrix of scipy.sparse for two axes: a sparse
    gradient, see ``lazy``. None: the parameter and what is kept for it stay as they are in this step.
state : State
    Its arrays are updated in place, its `steps` grows by one (or its `skipped`, see ``skip_nonfinite``), whether or not there
    are gradients.

Raises
------
TypeError
    A wrong container, something that is no NumPy array, a masked array, or a wrong dtype or byte order.
ValueError
    A wrong shape, size of a container or memory order; rows that the parameter does not have; params or state that are
    read-only, not aligned, or share memory with each other or the gradients.
RuntimeError
    The state is in use by a step in another thread.

Notes
-----
A gradient beyond 1.8e19 (float64: 1.3e154) has a square that overflows. It makes s infinite and the step size 0, and so
the parameter stays where it is, in all steps to come as well, until finite numbers are assigned to `State.s` (with
``centered``, to `State.variance` and `State.grad_avg`). With ``skip_nonfinite`` such a step is skipped;
``clip_value=1e18``, say, or clipping by a norm keeps the square finite.

References
----------
T. Tieleman and G. Hinton, "Lecture 6.5 - RMSProp", COURSERA: Neural Networks for Machine Learning, 2012.)";

constexpr const char* ParamGroups =
    R"(The parameter groups of a torch optimizer, as the kernel sees them; made by `param_groups`.)";

constexpr const char* param_groups = R"(param_groups(neutral, increment_version)
--

Make a ParamGroups. ``neutral`` has the options that a group may lack; ``increment_version(tensors)``, a builtin
function, tells autograd that they are changed.)";

constexpr const char* code_bytes = R"(code_bytes(params)
--

Return how many elements a uint8 tensor has that keeps codes for a parameter, and their exponents.)";

constexpr const char* pack_codes = R"(pack_codes(params, numbers, codes, is_signed)
--

Round float32 numbers in the memory order of a parameter to the nearest codes.)";

constexpr const char* unpack_codes = R"(unpack_codes(params, codes, numbers, is_signed)
--

Write the numbers that codes stand for into a float32 tensor in the memory order of the parameter.)";

constexpr const char* misfit = R"(misfit(part, tensor, like)
--

Say why a tensor cannot be a part of a leaf with such a parameter, or None if it can.

``part`` is 'param', 'grad', 'kept' or 'step'. What does not fit is the 'memory' (none, or numbers of another kind), the
'element' type, the 'shape', the 'order' of the axes or the 'address'; in a parameter there may also be 'gaps', or
elements that 'overlap'.)";

constexpr const char* ParamGroups_require_legal = R"(require_legal(self, group)
--

Raise TypeError or ValueError if the hyper-parameters of a group are not legal.)";

constexpr const char* ParamGroups_step = R"(step(self, param_groups, state, fit, norm, threads)
--

Take a step of all groups; csrc/param_groups.hpp says what is passed.)";

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

How many threads a step uses at most: one for each 16,384 elements, up to this number.

As set by `set_num_threads`, or else the least of the CPUs in the affinity mask of the calling thread, the cgroup's CPU
quota as it was at import, and OpenMP's own limits (OMP_NUM_THREADS, OMP_THREAD_LIMIT, threadpoolctl).

Steps of NumPy arrays have threads of their own, which sleep between steps; those of torch tensors use PyTorch's. If the
threads are busy with a step that another thread called, or cannot be created, a step does without them.)";

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
    For anything else.)";

constexpr const char* info = R"(info()
--

What this build is and how it runs.

Returns
-------
dict
    ``version``, ``kernel`` (in use), ``kernels`` (possible), ``threads`` (of a large step), ``openmp`` (date of the
    OpenMP specification, or None in a build without) and ``compiler``.)";

}  // namespace rmsprop_fast::docs
