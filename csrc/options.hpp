// Hyper-parameters by their names in Python: what each may be, and which contradict each other.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <span>
#include <string>

#include "hyper.hpp"
#include "kernel.hpp"

namespace rmsprop_fast {

namespace py = pybind11;

// The integer that the value is, or else `otherwise`.
std::int64_t integer(py::handle value, std::int64_t otherwise);

// An array of one or more axes, or a container; a 0-d array counts as its number.
bool is_tree(py::handle value);

// What numbers a hyper-parameter may be.
enum class Range { at_least_0, from_0_to_1, reciprocal, limit, norm };

// A number of the range, such that what is computed with it in that type stays finite; `name` is for messages.
double require_number(py::handle value, Range range, Element element, const std::string& name);

// A hyper-parameter; lr, which belongs to leaves, is not among them.
struct Option {
  const char* name;
  const char* torch_name;            // in rmsprop_fast.torch; null: not there
  double Hyper::* number = nullptr;  // of this range
  Range range = Range::at_least_0;
  bool Hyper::* flag = nullptr;  // or True and False
  bool only_at_init = false;
};
std::span<const Option> options();

// Which of both names messages use.
using Naming = const char* Option::*;

void read(const Option& option, py::handle value, Element element, const std::string& name, Hyper& hyper);
py::object value_of(const Option& option, const Hyper& hyper);

// Throws if options contradict each other.
void require_legal(const Hyper& hyper, Naming naming);

}  // namespace rmsprop_fast
