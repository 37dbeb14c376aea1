#include "options.hpp"

#include <algorithm>
#include <cmath>

namespace rmsprop_fast {
namespace {

constexpr bool only_at_init = true;

constexpr std::variant<std::monostate, int, const char*> lazy_values[] = {"rows", "dense", "catch_up"};
constexpr Choice lazy = {"str", lazy_values, [](const Hyper& hyper) { return static_cast<std::size_t>(hyper.lazy); },
                         [](Hyper& hyper, std::size_t place) { hyper.lazy = static_cast<Lazy>(place); }};

constexpr std::variant<std::monostate, int, const char*> state_dtype_values[] = {std::monostate(), "bfloat16", "uint8"};
constexpr Choice state_dtype = {
    "str or None", state_dtype_values, [](const Hyper& hyper) { return static_cast<std::size_t>(hyper.state_dtype); },
    [](Hyper& hyper, std::size_t place) { hyper.state_dtype = static_cast<StateDtype>(place); }};

constexpr std::variant<std::monostate, int, const char*> rounding_values[] = {"nearest", "stochastic"};
constexpr Choice rounding = {"str", rounding_values,
                             [](const Hyper& hyper) { return static_cast<std::size_t>(hyper.rounding); },
                             [](Hyper& hyper, std::size_t place) { hyper.rounding = static_cast<Rounding>(place); }};

constexpr std::variant<std::monostate, int, const char*> low_bits_values[] = {0, 8, 16};
constexpr Choice low_bits = {"int", low_bits_values,
                             [](const Hyper& hyper) { return static_cast<std::size_t>(hyper.low_bits) / 8; },
                             [](Hyper& hyper, std::size_t place) { hyper.low_bits = static_cast<int>(place) * 8; }};

constexpr Option all_options[] = {
    {"lr", "lr", nullptr, &Hyper::lr, Range::at_least_0,
     "The learning rate, or a tree of learning rates: numbers, and arrays of each element's own.",
     R"(A tree has the shape of the parameters'. Each of its leaves is a number, or an array of real numbers of the parameter's
shape; all are finite and at least 0. Arrays are copied when assigned, in the dtype of `s`. What comes back is read-only,
its containers too: to change one leaf, assign a whole tree.

Raises
------
TypeError, ValueError
    For anything else; the old value stays.)"},
    {"rho", "alpha", nullptr, &Hyper::rho, Range::from_0_to_1, "The decay rate of the running means, from 0 to 1."},
    {"eps", "eps", nullptr, &Hyper::eps, Range::at_least_0,
     "What is added to the root before dividing, finite and at least 0.",
     R"(With 0, or what rounds to 0 in the dtype of `s`, a parameter whose gradients were all zero becomes NaN (0 / 0).)"},
    {"momentum", "momentum", nullptr, &Hyper::momentum, Range::from_0_to_1,
     "The decay rate of the momentum buffer, from 0 to 1; with 0 `init` makes none.",
     R"(    b = momentum * b + step_size * g
    p = p - b

May be assigned if `init` was given more than 0.)"},
    {"nesterov", "nesterov", &Hyper::nesterov, nullptr, Range::any,
     "Move by ``step_size * g + momentum * b``, with the new b, instead of b? Needs ``momentum``.",
     R"(As optax does. Y. Nesterov's method as in I. Sutskever et al., "On the importance of initialization and momentum in deep
learning", ICML 2013.)"},
    {"lr_in_momentum", "lr_in_momentum", &Hyper::lr_in_momentum, nullptr, Range::any,
     "Does the momentum buffer sum up steps that include lr?",
     R"(True, as in TensorFlow, Keras and optax::

    b = momentum * b + (lr / D) * g
    p = p - b

False, as in PyTorch::

    b = momentum * b + (1 / D) * g
    p = p - lr * b

with D the divisor, ``sqrt(s) + eps``. Without ``momentum`` it makes no difference.)"},
    {"centered", "centered", &Hyper::centered, nullptr, Range::any, "Divide by the standard deviation of the gradient?",
     R"(Keeps the running mean m of the gradient, `grad_avg`, and in the place of s the running variance, `variance`::

    v = rho * v + rho * (1 - rho) * (g - m)**2
    m = rho * m + (1 - rho) * g

which is ``s - m**2`` of A. Graves, "Generating Sequences With Recurrent Neural Networks", 2013, and never negative. Under
a constant gradient it shrinks to nothing all the same, and steps grow until ``eps`` bounds them.)",
     only_at_init},
    {"eps_inside_sqrt", "eps_inside_sqrt", &Hyper::eps_inside_sqrt, nullptr, Range::any,
     "Divide by ``sqrt(s + eps)`` instead of ``sqrt(s) + eps``?"},
    {"initial_s", "initial_s", nullptr, &Hyper::initial_s, Range::at_least_0,
     "What s starts at, finite and at least 0. TensorFlow 1 and timm use 1.", "", only_at_init},
    {"bias_correction", "bias_correction", &Hyper::bias_correction, nullptr, Range::any,
     "Let the running means forget that they started at 0? Needs ``initial_s=0`` and rho below 1.",
     R"(In step t, counted from 1, ``(rho - rho**t) / (1 - rho**t)`` stands for rho everywhere. So s holds the corrected mean, that
which other implementations get by a division by ``1 - rho**t``. With ``centered``, one gradient has no variance: the
divisor of step 1 is ``eps`` alone, which should not be tiny then.

D. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, section 3.)"},
    {"weight_decay", "weight_decay", nullptr, &Hyper::weight_decay, Range::at_least_0,
     "How strongly parameters are pulled to 0, finite and at least 0. See ``decoupled``."},
    {"decoupled", "decoupled_weight_decay", &Hyper::decoupled, nullptr, Range::any,
     "Does ``weight_decay`` act on the parameter, and not on the gradient (L2)?",
     R"(False: it is added to the gradient, ``g = g + weight_decay * p``. True: before the step, and apart from it,
``p = p - lr * weight_decay * p``, as in I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.)"},
    {"maximize", "maximize", &Hyper::maximize, nullptr, Range::any, "Ascend instead of descend?"},
    {"grad_scale", nullptr, nullptr, &Hyper::grad_scale, Range::reciprocal,
     "What gradients are divided by first (loss scaling), above 0."},
    {"clip_value", "clip_value", nullptr, &Hyper::clip_value, Range::limit,
     "Clamp every gradient to at most this, either side of 0. One ``clip_`` at a time."},
    {"clip_norm", nullptr, nullptr, &Hyper::clip_norm, Range::norm,
     "Scale the gradients of each leaf so that their norm is at most this. One ``clip_`` at a time.",
     R"(Multiplies them by ``min(1, clip_norm / norm)``, with the Euclidean norm after ``grad_scale``; if that overflows, by 0.)"},
    {"clip_global_norm", "max_grad_norm", nullptr, &Hyper::clip_global_norm, Range::norm,
     "Scale all gradients so that the norm of the whole tree is at most this. One ``clip_`` at a time.",
     R"(Multiplies them by ``min(1, clip_global_norm / norm)``, with the Euclidean norm after ``grad_scale``; if that overflows,
by 0. R. Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013.)"},
    {"skip_nonfinite", "skip_nonfinite", &Hyper::skip_nonfinite, nullptr, Range::any,
     "Skip steps with a gradient that is inf or NaN, or whose square overflows?",
     R"(Such a step changes no array, and counts in `skipped` instead of `steps`. Looked at are the gradients after division by
``grad_scale`` and clipping by a norm, and this norm.)"},
    {"lazy", "lazy", nullptr, nullptr, Range::any,
     "What becomes of the rows that a sparse gradient does not have: 'rows', 'dense' or 'catch_up'.",
     R"(With 'rows' they and all that is kept for them stay as they are, as in TensorFlow. With 'dense' they take a step with a
gradient of zeros: it costs as much as a dense step. With 'catch_up', s of a row decays by ``rho**missed`` when the row is
next touched, where `missed` is the number of steps since it was: the same as 'dense' but for rounding, at the cost of the
rows that are touched. It needs momentum and weight_decay of 0, and neither centered nor bias_correction. `s` is then that of
the step in which each row was touched last; ``state.catch_up()`` brings it up to date, and so does assigning rho.)",
     only_at_init, &lazy},
    {"rowwise", "rowwise", &Hyper::rowwise, nullptr, Range::any,
     "Keep one s for each row, the mean of ``g**2`` over it? Rows are counted along the first axis.",
     R"(The update of a row is then::

    s = rho * s + (1 - rho) * mean(g**2)
    p = p - lr / (sqrt(s) + eps) * g

so s takes the memory of a row divided by its width: its shape is ``(rows, 1, ...)``. In parameters with one axis or none each
element is a row. It needs ``centered=False``, and parameters whose first axis is the outermost in memory. The mean of the
squares is that of the gradient as it is used: after ``grad_scale``, clipping and ``weight_decay``.

As the row-wise optimizers of FBGEMM (D. Mudigere et al., "Software-Hardware Co-design for Fast and Scalable Training of Deep
Learning Recommendation Models", ISCA 2022).)",
     only_at_init},
    {"state_dtype", "state_dtype", nullptr, nullptr, Range::any,
     "What s, or variance and grad_avg, and momentum_buffer are kept in: None for the compute type, 'bfloat16' or "
     "'uint8'.",
     R"(They are computed with in float32 all the same, and rounded when they are stored: see ``rounding``. With 'uint8' each
number is a code of 8 bits, in units of its block of up to 128 elements, which cost one byte more. docs/compact.md has the
format. Parameters must not be float64, ``rowwise`` must be False, ``lazy`` not 'catch_up'; and with 'uint8', rows of sparse
gradients must have 32 elements or more.

The attributes of such arrays, `s` and so on, are new, read-only float32 arrays. Assigning them rounds to the nearest, and
gives back exactly what was read.)",
     only_at_init, &state_dtype},
    {"rounding", "rounding", nullptr, nullptr, Range::any,
     "How numbers are rounded that are stored in fewer bits than float32 has: 'nearest' or 'stochastic'.",
     R"(Concerns float16 and bfloat16 parameters, and arrays with a ``state_dtype``. A running mean that decays by less than half a
step of its format stays where it is with 'nearest', for ever. With 'stochastic' a number is rounded up with a probability
that makes the mean right. What stands for chance is computed from the number of steps and the place of the element: equal
steps have equal bytes, on every machine.)",
     false, &rounding},
    {"low_bits", "low_bits", nullptr, nullptr, Range::any,
     "How many bits below those of bfloat16 parameters are kept in the state: 0, 8 or 16.",
     R"(The parameter and its ``low_order_bits`` are one number: with 16 a float32, with 8 one of 24 bits. So with 16, bfloat16
parameters are the upper halves of what float32 parameters would be, at 4 bytes an element instead of the 6 that a master copy
takes. Other parameters of the tree have none; there must be one in bfloat16. Needs ``rowwise=False``. Who writes into the
parameters sets ``state.low_order_bits`` to zeros, or leaves an error of less than one step of bfloat16.)",
     only_at_init, &low_bits},
};

// Is it a limit, which may also be None?
bool is_limit(Range range) { return range == Range::limit || range == Range::norm; }

std::string expectation(Range range) {
  if (range == Range::any) return "a NumPy array or a real number";
  if (range == Range::mean) return "a number of at least 0";
  if (range == Range::from_0_to_1) return "a number from 0 to 1";
  if (range == Range::reciprocal) return "a finite number above 0 whose reciprocal is finite";
  if (is_limit(range)) return "None or a finite number above 0";
  return "a finite number of at least 0";
}

bool require_flag(py::handle value, const std::string& name) {
  if (!PyBool_Check(value.ptr()) && !py::isinstance(value, py::module_::import("numpy").attr("bool_")))
    throw py::type_error(name + ": expected True or False, got " + quote(value));
  return PyObject_IsTrue(value.ptr()) == 1;
}

py::object value_at(const Choice& choice, std::size_t place) {
  const auto& value = choice.values[place];
  if (const auto* const text = std::get_if<const char*>(&value)) return py::str(*text);
  if (const auto* const number = std::get_if<int>(&value)) return py::int_(*number);
  return py::none();
}

std::size_t require_choice(const Choice& choice, py::handle value, const std::string& name) {
  std::string expected;
  for (std::size_t place = 0; place < choice.values.size(); ++place) {
    const py::object known = value_at(choice, place);
    const bool is_text = PyUnicode_Check(known.ptr()) && PyUnicode_Check(value.ptr());
    const bool is_integer =
        PyLong_Check(known.ptr()) && !PyBool_Check(value.ptr()) && integer(value, -1) == known.cast<int>();
    if (value.is(known) || is_integer || (is_text && value.equal(known))) return place;
    expected.append(expected.empty() ? "" : ", ").append(quote(known));
  }
  throw py::value_error(name + ": expected one of " + expected + ", got " + quote(value));
}

std::string text(double number) { return quote(py::float_(number)); }

std::string default_of(const Option& option) { return quote(value_of(option, Hyper{})); }

}  // namespace

bool is_in(Range range, double number, Element element) {
  const bool rounds = element == Element::float32 && range != Range::norm;  // norms are numbers of type double
  const auto rounded = [&](double x) { return rounds ? static_cast<double>(static_cast<float>(x)) : x; };
  if (range == Range::any) return true;
  if (range == Range::mean) return !(number < 0);
  if (range == Range::from_0_to_1) return number >= 0 && number <= 1;
  if (range == Range::reciprocal) return number > 0 && std::isfinite(number) && std::isfinite(rounded(1 / number));
  if (is_limit(range)) return rounded(number) > 0 && std::isfinite(rounded(number));
  return number >= 0 && std::isfinite(rounded(number));
}

double require_number(py::handle value, Range range, Element element, const std::string& name) {
  const auto refusal = [&] { return name + ": expected " + expectation(range) + ", got " + quote(value); };
  if (!is_number(value)) throw py::type_error(refusal());
  const double number = PyFloat_AsDouble(value.ptr());
  if (PyErr_Occurred()) {  // an integer too large for a double, say
    clear_complaint();
    throw py::value_error(refusal());
  }
  if (!is_in(range, number, element)) throw py::value_error(refusal());
  return number;
}

std::span<const Option> options() { return all_options; }

std::string signature() {
  std::string text = "(params, *";
  for (const Option& option : all_options) text.append(", ").append(option.name).append("=").append(default_of(option));
  return text.append(")\n--\n\n");
}

std::string parameters() {
  std::string text;
  for (const Option& option : all_options)
    text.append(option.name)
        .append(" : ")
        .append(option.choice            ? option.choice->type
                : option.flag            ? "bool"
                : is_limit(option.range) ? "float or None"
                                         : "float")
        .append(option.number == &Hyper::lr ? ", or a tree of numbers and arrays, default " : ", default ")
        .append(default_of(option) + "\n    " + option.summary + "\n");
  return text;
}

std::string docstring(const Option& option) {
  return option.summary + (" Default " + default_of(option)) + (option.only_at_init ? "; decided by `init`." : ".") +
         (*option.details ? "\n\n" : "") + option.details;
}

void read(const Option& option, py::handle value, Element element, const std::string& name, Hyper& hyper) {
  if (option.choice)
    option.choice->set(hyper, require_choice(*option.choice, value, name));
  else if (option.flag)
    hyper.*option.flag = require_flag(value, name);
  else if (is_limit(option.range) && value.is_none())
    hyper.*option.number = no_limit;
  else
    hyper.*option.number = require_number(value, option.range, element, name);
}

py::object value_of(const Option& option, const Hyper& hyper) {
  if (option.choice) return value_at(*option.choice, option.choice->get(hyper));
  if (option.flag) return py::bool_(hyper.*option.flag);
  const double number = hyper.*option.number;
  if (is_limit(option.range) && number == no_limit) return py::none();
  return py::float_(number);
}

void require_legal(const Hyper& hyper, Naming naming) {
  if (hyper.nesterov && hyper.momentum == 0)
    throw py::value_error("nesterov: expected momentum above 0 with nesterov=True, got momentum=0.0");
  if (hyper.bias_correction && hyper.initial_s != 0)
    throw py::value_error("bias_correction: expected initial_s=0 with bias_correction=True, got initial_s=" +
                          text(hyper.initial_s));
  if (hyper.rowwise && hyper.centered) throw py::value_error("centered: expected False with rowwise=True, got True");
  for (const Option& option : all_options) {
    const bool changes_untouched = option.number == &Hyper::momentum || option.number == &Hyper::weight_decay ||
                                   option.flag == &Hyper::centered || option.flag == &Hyper::bias_correction ||
                                   option.choice == &state_dtype;
    const bool is_compact = option.choice == &state_dtype || option.choice == &rounding || option.choice == &low_bits;
    const char* const other = changes_untouched && hyper.lazy == Lazy::catch_up ? "lazy='catch_up'"
                              : is_compact && hyper.rowwise                     ? "rowwise=True"
                                                                                : nullptr;
    if (other && !value_of(option, hyper).equal(value_of(option, Hyper{})))
      throw py::value_error(std::string(option.*naming) + ": expected " + default_of(option) + " with " + other +
                            ", got " + quote(value_of(option, hyper)));
  }
  std::string clips, given;
  int count = 0;
  for (const Option& option : all_options) {
    const char* const name = option.*naming;
    if (!name) continue;
    if (option.number == &Hyper::rho && hyper.bias_correction && hyper.rho == 1)
      throw py::value_error("bias_correction: expected " +
                            (name + std::string(" below 1 with bias_correction=True, got ")) + name + "=1.0");
    if (!is_limit(option.range)) continue;
    clips.append(clips.empty() ? "" : ", ").append(name);
    if (hyper.*option.number == no_limit) continue;
    given.append(count++ ? " and " : "").append(name).append("=").append(text(hyper.*option.number));
  }
  if (count > 1) throw py::value_error(clips + ": expected at most one of them, got " + given);
}

}  // namespace rmsprop_fast
