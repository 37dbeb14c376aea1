// Hyper-parameters by their names in Python: what each is for, what it may be, and which contradict each other.
#pragma once

#include <pybind11/pybind11.h>

#include <span>
#include <string>
#include <variant>

#include "elements.hpp"
#include "hyper.hpp"
#include "values.hpp"

namespace rmsprop_fast {

// What numbers a hyper-parameter may be, or those in arrays.
enum class Range { at_least_0, from_0_to_1, reciprocal, limit, norm, mean, any };  // the last two: also NaN and inf
bool is_in(Range range, double number, Element element);

// A number of the range, such that what is computed with it in that type stays finite; `name` is for messages.
double require_number(py::handle value, Range range, Element element, const std::string& name);

// One of some values, by their place among them.
struct Choice {
  const char* type;                                                        // for docstrings
  std::span<const std::variant<std::monostate, int, const char*>> values;  // None, int, str
  std::size_t (*get)(const Hyper& hyper);
  void (*set)(Hyper& hyper, std::size_t place);
};

// A hyper-parameter: True or False, a number of that range, or a choice.
struct Option {
  const char* name;
  const char* torch_name;  // in rmsprop_fast.torch; null: not there
  bool Hyper::* flag;
  double Hyper::* number;
  Range range;
  const char* summary;       // what it is; init's docstring has this line alone
  const char* details = "";  // equations, sources
  bool only_at_init = false;
  const Choice* choice = nullptr;
};
std::span<const Option> options();

// What `init` takes, in the form that inspect.signature reads; what its docstring says about options; the docstring of
// an attribute.
std::string signature();
std::string parameters();
std::string docstring(const Option& option);

// Which of both names messages use.
using Naming = const char* Option::*;

void read(const Option& option, py::handle value, Element element, const std::string& name, Hyper& hyper);
py::object value_of(const Option& option, const Hyper& hyper);

// Throws if options contradict each other.
void require_legal(const Hyper& hyper, Naming naming);

}  // namespace rmsprop_fast
