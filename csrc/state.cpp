#include "state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace rmsprop_fast {
namespace {

constexpr double no_limit = std::numeric_limits<double>::infinity();

// An array of one or more axes, or a container; a 0-d array counts as its number.
bool is_tree(py::handle value) {
  if (py::isinstance<py::array>(value)) return py::reinterpret_borrow<py::array>(value).ndim() > 0;
  return PyDict_Check(value.ptr()) || PyList_Check(value.ptr()) || PyTuple_Check(value.ptr());
}

bool is_number(py::handle value) {
  if (PyFloat_Check(value.ptr())) return true;
  if (PyBool_Check(value.ptr())) return false;
  if (py::isinstance<py::array>(value)) return has_real_numbers(value) && !is_masked(value) && !is_tree(value);
  return py::isinstance(value, py::module_::import("numbers").attr("Real"));
}

// What Python has to say about a value, we say ourselves; anything else, such as KeyboardInterrupt, goes on.
void clear_complaint() {
  if (!PyErr_ExceptionMatches(PyExc_TypeError) && !PyErr_ExceptionMatches(PyExc_ValueError) &&
      !PyErr_ExceptionMatches(PyExc_OverflowError))
    throw py::error_already_set();
  PyErr_Clear();
}

// A number from 0 to `most` that stays finite when it is rounded to the element's type.
double require_number(py::handle value, double most, Element element, const std::string& name) {
  const std::string expected = most == no_limit ? "a finite number of at least 0"
                                                : "a number from 0 to " + std::to_string(static_cast<int>(most));
  const auto refusal = [&] { return name + ": expected " + expected + ", got " + quote(value); };
  if (!is_number(value)) throw py::type_error(refusal());
  const double number = PyFloat_AsDouble(value.ptr());
  if (PyErr_Occurred()) {  // an integer too large for a double, say
    clear_complaint();
    throw py::value_error(refusal());
  }
  const double rounded = element == Element::float32 ? static_cast<double>(static_cast<float>(number)) : number;
  if (!(number >= 0 && number <= most && std::isfinite(rounded))) throw py::value_error(refusal());
  return number;
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

State::State(py::handle params, py::handle lr, py::handle rho, py::handle eps) : buffers_(params) {
  set_lr(lr);
  set_rho(rho);
  set_eps(eps);
}

py::object State::lr() const { return lr_leaves_ ? buffers_.tree().unflatten(*lr_leaves_) : py::float_(lr_number_); }

void State::set_lr(py::handle value) {
  const InUse in_use(*this);
  std::vector<Leaf>& leaves = buffers_.leaves();
  if (!is_tree(value)) {
    const double number = require_number(value, no_limit, buffers_.narrowest(), "lr");
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
      given[i] = py::float_(require_number(given[i], no_limit, leaves[i].element, name));
    } else {
      const py::array copy = buffers_.copy(given[i], i, "lr");
      if (leaves[i].element == Element::float32)
        require_in_range<float>(copy, name);
      else
        require_in_range<double>(copy, name);
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
  for (std::size_t i = 0; i < buffers_.s().size(); ++i)
    results.push_back(function(buffers_.s()[i], lr_leaves ? (*lr_leaves)[i] : py::float_(lr_number_)));
  return buffers_.tree().unflatten(results);
}

void State::set_rho(py::handle value) {
  const InUse in_use(*this);
  hyper_.rho = require_number(value, 1, Element::float64, "rho");
}

void State::set_eps(py::handle value) {
  const InUse in_use(*this);
  hyper_.eps = require_number(value, no_limit, buffers_.narrowest(), "eps");
}

void State::set_steps(py::handle value) {
  const InUse in_use(*this);
  const std::int64_t steps = integer(value, -1);
  if (steps < 0) throw py::value_error("steps: expected an integer from 0 to 2**63 - 1, got " + quote(value));
  steps_ = steps;
}

}  // namespace rmsprop_fast
