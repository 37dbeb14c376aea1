#include "state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace rmsprop_fast {
namespace {

constexpr Option all_options[] = {
    {"rho", &Hyper::rho, Range::from_0_to_1},
    {"eps", &Hyper::eps, Range::at_least_0},
    {"momentum", &Hyper::momentum, Range::from_0_to_1},
    {.name = "nesterov", .flag = &Hyper::nesterov},
    {.name = "lr_in_momentum", .flag = &Hyper::lr_in_momentum},
    {.name = "centered", .flag = &Hyper::centered, .only_at_init = true},
    {.name = "eps_inside_sqrt", .flag = &Hyper::eps_inside_sqrt},
    {.name = "initial_s", .number = &Hyper::initial_s, .only_at_init = true},
    {.name = "bias_correction", .flag = &Hyper::bias_correction},
    {"weight_decay", &Hyper::weight_decay, Range::at_least_0},
    {.name = "decoupled", .flag = &Hyper::decoupled},
    {.name = "maximize", .flag = &Hyper::maximize},
    {"grad_scale", &Hyper::grad_scale, Range::reciprocal},
    {"clip_value", &Hyper::clip_value, Range::limit},
    {"clip_norm", &Hyper::clip_norm, Range::norm},
    {"clip_global_norm", &Hyper::clip_global_norm, Range::norm},
    {.name = "skip_nonfinite", .flag = &Hyper::skip_nonfinite},
};

// An array of one or more axes, or a container; a 0-d array counts as its number.
bool is_tree(py::handle value) {
  if (py::isinstance<py::array>(value)) return py::reinterpret_borrow<py::array>(value).ndim() > 0;
  return PyDict_Check(value.ptr()) || PyList_Check(value.ptr()) || PyTuple_Check(value.ptr());
}

bool is_number(py::handle value) {
  if (PyFloat_Check(value.ptr())) return true;
  if (PyBool_Check(value.ptr())) return false;
  if (py::isinstance<py::array>(value)) return has_real_numbers(value) && !is_masked(value) && !is_tree(value);
  if (py::isinstance(value, py::module_::import("numpy").attr("generic"))) return has_real_numbers(value);
  return py::isinstance(value, py::module_::import("numbers").attr("Real"));
}

// What Python has to say about a value, we say ourselves; anything else, such as KeyboardInterrupt, goes on.
void clear_complaint() {
  if (!PyErr_ExceptionMatches(PyExc_TypeError) && !PyErr_ExceptionMatches(PyExc_ValueError) &&
      !PyErr_ExceptionMatches(PyExc_OverflowError))
    throw py::error_already_set();
  PyErr_Clear();
}

// Is it a limit, which may also be None?
bool is_limit(Range range) { return range == Range::limit || range == Range::norm; }

std::string expectation(Range range) {
  if (range == Range::from_0_to_1) return "a number from 0 to 1";
  if (range == Range::reciprocal) return "a finite number above 0 whose reciprocal is finite";
  if (is_limit(range)) return "None or a finite number above 0";
  return "a finite number of at least 0";
}

bool is_in(Range range, double number, Element element) {
  const bool rounds = element == Element::float32 && range != Range::norm;  // norms are numbers of type double
  const auto rounded = [&](double x) { return rounds ? static_cast<double>(static_cast<float>(x)) : x; };
  if (range == Range::from_0_to_1) return number >= 0 && number <= 1;
  if (range == Range::reciprocal) return number > 0 && std::isfinite(number) && std::isfinite(rounded(1 / number));
  if (is_limit(range)) return rounded(number) > 0 && std::isfinite(rounded(number));
  return number >= 0 && std::isfinite(rounded(number));
}

// A number of the range; what is computed with it in the element's type must stay finite.
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

bool require_flag(py::handle value, const std::string& name) {
  if (!PyBool_Check(value.ptr()) && !py::isinstance(value, py::module_::import("numpy").attr("bool_")))
    throw py::type_error(name + ": expected True or False, got " + quote(value));
  return PyObject_IsTrue(value.ptr()) == 1;
}

std::string text(double number) { return quote(py::float_(number)); }

py::object value_of(const Option& option, const Hyper& hyper) {
  if (option.flag) return py::bool_(hyper.*option.flag);
  const double number = hyper.*option.number;
  if (is_limit(option.range) && number == no_limit) return py::none();
  return py::float_(number);
}

// Options that contradict each other.
void require_legal(const Hyper& hyper) {
  if (hyper.nesterov && hyper.momentum == 0)
    throw py::value_error("nesterov: expected momentum above 0 with nesterov=True, got momentum=0.0");
  if (hyper.bias_correction && hyper.initial_s != 0)
    throw py::value_error("bias_correction: expected initial_s=0 with bias_correction=True, got initial_s=" +
                          text(hyper.initial_s));
  if (hyper.bias_correction && hyper.rho == 1)
    throw py::value_error("bias_correction: expected rho below 1 with bias_correction=True, got rho=1.0");
  std::string clips;
  int count = 0;
  for (const Option& option : all_options) {
    if (!is_limit(option.range) || hyper.*option.number == no_limit) continue;
    clips.append(count++ ? " and " : "").append(option.name).append("=").append(text(hyper.*option.number));
  }
  if (count > 1)
    throw py::value_error("clip_value, clip_norm, clip_global_norm: expected at most one of them, got " + clips);
}

template <class Real>
void require_in_range(const py::array& array, const std::string& name) {
  const auto* begin = static_cast<const Real*>(array.data());
  const auto* end = begin + array.size();
  const auto* bad = std::find_if_not(begin, end, [](Real value) { return value >= 0 && std::isfinite(value); });
  if (bad != end)
    throw py::value_error(name + ": expected finite numbers of at least 0, got " +
                          std::string(py::str(py::float_(static_cast<double>(*bad)))));
}

}  // namespace

std::int64_t integer(py::handle value, std::int64_t otherwise) {
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  const std::int64_t number = index ? PyLong_AsLongLong(index.ptr()) : otherwise;
  if (!PyErr_Occurred()) return number;
  clear_complaint();
  return otherwise;
}

State::InUse::InUse(State& state) : state_(state) {
  if (state.in_use_.exchange(true))
    throw std::runtime_error(
        "state: expected one that is not in use, got one that another step is working on, or was when this process was "
        "forked");
}

std::span<const Option> options() { return all_options; }

State::State(py::handle params, const py::dict& hyper) : buffers_(params), gradient_(buffers_.leaves()) {
  for (const auto& [key, value] : hyper) {
    const std::string name = py::str(key);
    if (name == "lr") continue;
    const auto option = std::find_if(std::begin(all_options), std::end(all_options),
                                     [&](const Option& candidate) { return candidate.name == name; });
    if (option == std::end(all_options)) {
      std::string expected = "lr";
      for (const Option& candidate : all_options) expected.append(", ").append(candidate.name);
      throw py::type_error("init: expected hyper-parameters among " + expected + "; got " + quote(key));
    }
    read(*option, value, hyper_);
  }
  require_legal(hyper_);
  derive(hyper_);
  set_lr(hyper.contains("lr") ? py::object(hyper["lr"]) : py::float_(0.01));

  buffers_.keep(&Leaf::s, hyper_.centered ? "state.variance" : "state.s", hyper_.initial_s);
  if (hyper_.centered) buffers_.keep(&Leaf::m, "state.grad_avg", 0);
  if (hyper_.momentum > 0) buffers_.keep(&Leaf::b, "state.momentum_buffer", 0);
}

const Hyper& State::begin_step() {
  hyper_.rho_t = hyper_.rho;
  if (hyper_.bias_correction) {
    const double power = std::pow(hyper_.rho, static_cast<double>(steps_) + 1);
    hyper_.rho_t = (hyper_.rho - power) / (1 - power);
  }
  return hyper_;
}

void State::end_step(bool done) {
  std::int64_t& count = done ? steps_ : skipped_;
  if (count < std::numeric_limits<std::int64_t>::max()) ++count;
  grad_norm_.reset();
  if (hyper_.needs_gradient) grad_norm_ = gradient_.norm();
}

py::object State::kept(void* Leaf::* member) const {
  const auto* arrays = buffers_.kept(member);
  return arrays ? buffers_.tree().unflatten(*arrays) : py::none();
}

py::object State::s() const {
  if (!hyper_.centered) return kept(&Leaf::s);
  // v + m**2, for nobody to write into
  const auto numpy = py::module_::import("numpy");
  const auto quietly = numpy.attr("errstate")(py::arg("all") = "ignore");
  std::vector<py::object> leaves;
  for (std::size_t i = 0; i < buffers_.kept(&Leaf::s)->size(); ++i) {
    const py::object &v = (*buffers_.kept(&Leaf::s))[i], &m = (*buffers_.kept(&Leaf::m))[i], s = buffers_.zeros(i);
    quietly(numpy.attr("multiply"))(m, m, s);
    quietly(numpy.attr("add"))(v, s, s);
    s.attr("setflags")(py::arg("write") = false);
    leaves.push_back(s);
  }
  return buffers_.tree().unflatten(leaves);
}

py::object State::variance() const { return hyper_.centered ? kept(&Leaf::s) : py::none(); }

py::object State::get(const Option& option) const { return value_of(option, hyper_); }

void State::read(const Option& option, py::handle value, Hyper& hyper) const {
  if (option.flag)
    hyper.*option.flag = require_flag(value, option.name);
  else if (is_limit(option.range) && value.is_none())
    hyper.*option.number = no_limit;
  else
    hyper.*option.number = require_number(value, option.range, buffers_.narrowest(), option.name);
}

void State::set(const Option& option, py::handle value) {
  const InUse in_use(*this);
  Hyper next = hyper_;
  read(option, value, next);
  if (next.momentum > 0 && !buffers_.kept(&Leaf::b))
    throw py::value_error("momentum: expected 0, as init made no momentum_buffer with momentum=0, got " + quote(value));
  require_legal(next);
  derive(next);
  hyper_ = next;
}

py::object State::lr() const { return lr_leaves_ ? buffers_.tree().unflatten(*lr_leaves_) : py::float_(lr_number_); }

void State::set_lr(py::handle value) {
  const InUse in_use(*this);
  std::vector<Leaf>& leaves = buffers_.leaves();
  if (!is_tree(value)) {
    const double number = require_number(value, Range::at_least_0, buffers_.narrowest(), "lr");
    for (Leaf& leaf : leaves) {
      leaf.lr = nullptr;
      leaf.lr_number = number;
    }
    lr_number_ = number;
    lr_leaves_.reset();
    return;
  }

  std::vector<py::object> nodes, given;
  buffers_.tree().flatten(value, "lr", nodes);
  for (const std::size_t node : buffers_.tree().leaf_nodes()) given.push_back(nodes[node]);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const std::string name = buffers_.tree().leaf_name("lr", i);
    if (!is_tree(given[i])) {
      given[i] = py::float_(require_number(given[i], Range::at_least_0, compute_type(leaves[i].element), name));
    } else {
      const py::array copy = buffers_.copy(given[i], i, "lr");
      if (leaves[i].element == Element::float64)
        require_in_range<double>(copy, name);
      else
        require_in_range<float>(copy, name);
      given[i] = copy;
    }
  }
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const bool is_array = py::isinstance<py::array>(given[i]);
    leaves[i].lr = is_array ? py::reinterpret_borrow<py::array>(given[i]).data() : nullptr;
    leaves[i].lr_number = is_array ? 0 : given[i].cast<double>();
  }
  lr_leaves_ = std::move(given);
}

py::object State::map(const py::function& function) const {
  const auto lr_leaves = lr_leaves_;  // the function may assign another
  std::vector<py::object> results;
  for (std::size_t i = 0; i < buffers_.kept(&Leaf::s)->size(); ++i)
    results.push_back(function((*buffers_.kept(&Leaf::s))[i], lr_leaves ? (*lr_leaves)[i] : py::float_(lr_number_)));
  return buffers_.tree().unflatten(results);
}

void State::set_steps(py::handle value) { set_count(steps_, value, "steps"); }
void State::set_skipped(py::handle value) { set_count(skipped_, value, "skipped"); }

void State::set_count(std::int64_t& count, py::handle value, const char* name) {
  const InUse in_use(*this);
  const std::int64_t number = integer(value, -1);
  if (number < 0)
    throw py::value_error(std::string(name) + ": expected an integer from 0 to 2**63 - 1, got " + quote(value));
  count = number;
}

std::string State::repr() const {
  std::string text = "State(lr=" + quote(lr());
  for (const Option& option : all_options) {
    const bool always = option.number == &Hyper::rho || option.number == &Hyper::eps;
    if (always || !get(option).equal(value_of(option, Hyper{})))
      text.append(", ").append(option.name).append("=").append(quote(get(option)));
  }
  return text.append(", steps=").append(std::to_string(steps_)).append(")");
}

}  // namespace rmsprop_fast
