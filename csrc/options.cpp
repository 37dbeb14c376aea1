#include "options.hpp"

#include <pybind11/numpy.h>

#include <algorithm>
#include <cmath>

#include "buffers.hpp"

namespace rmsprop_fast {
namespace {

constexpr Option all_options[] = {
    {.name = "rho", .torch_name = "alpha", .number = &Hyper::rho, .range = Range::from_0_to_1},
    {.name = "eps", .torch_name = "eps", .number = &Hyper::eps},
    {.name = "momentum", .torch_name = "momentum", .number = &Hyper::momentum, .range = Range::from_0_to_1},
    {.name = "nesterov", .torch_name = "nesterov", .flag = &Hyper::nesterov},
    {.name = "lr_in_momentum", .torch_name = "lr_in_momentum", .flag = &Hyper::lr_in_momentum},
    {.name = "centered", .torch_name = "centered", .flag = &Hyper::centered, .only_at_init = true},
    {.name = "eps_inside_sqrt", .torch_name = "eps_inside_sqrt", .flag = &Hyper::eps_inside_sqrt},
    {.name = "initial_s", .torch_name = "initial_s", .number = &Hyper::initial_s, .only_at_init = true},
    {.name = "bias_correction", .torch_name = "bias_correction", .flag = &Hyper::bias_correction},
    {.name = "weight_decay", .torch_name = "weight_decay", .number = &Hyper::weight_decay},
    {.name = "decoupled", .torch_name = "decoupled_weight_decay", .flag = &Hyper::decoupled},
    {.name = "maximize", .torch_name = "maximize", .flag = &Hyper::maximize},
    {.name = "grad_scale", .torch_name = nullptr, .number = &Hyper::grad_scale, .range = Range::reciprocal},
    {.name = "clip_value", .torch_name = "clip_value", .number = &Hyper::clip_value, .range = Range::limit},
    {.name = "clip_norm", .torch_name = nullptr, .number = &Hyper::clip_norm, .range = Range::norm},
    {.name = "clip_global_norm",
     .torch_name = "max_grad_norm",
     .number = &Hyper::clip_global_norm,
     .range = Range::norm},
    {.name = "skip_nonfinite", .torch_name = "skip_nonfinite", .flag = &Hyper::skip_nonfinite},
};

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

bool require_flag(py::handle value, const std::string& name) {
  if (!PyBool_Check(value.ptr()) && !py::isinstance(value, py::module_::import("numpy").attr("bool_")))
    throw py::type_error(name + ": expected True or False, got " + quote(value));
  return PyObject_IsTrue(value.ptr()) == 1;
}

std::string text(double number) { return quote(py::float_(number)); }

}  // namespace

std::int64_t integer(py::handle value, std::int64_t otherwise) {
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  const std::int64_t number = index ? PyLong_AsLongLong(index.ptr()) : otherwise;
  if (!PyErr_Occurred()) return number;
  clear_complaint();
  return otherwise;
}

bool is_tree(py::handle value) {
  if (py::isinstance<py::array>(value)) return py::reinterpret_borrow<py::array>(value).ndim() > 0;
  return PyDict_Check(value.ptr()) || PyList_Check(value.ptr()) || PyTuple_Check(value.ptr());
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

void read(const Option& option, py::handle value, Element element, const std::string& name, Hyper& hyper) {
  if (option.flag)
    hyper.*option.flag = require_flag(value, name);
  else if (is_limit(option.range) && value.is_none())
    hyper.*option.number = no_limit;
  else
    hyper.*option.number = require_number(value, option.range, element, name);
}

py::object value_of(const Option& option, const Hyper& hyper) {
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
