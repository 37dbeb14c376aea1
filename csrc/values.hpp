// What a Python value is, and what messages call it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace rmsprop_fast {

namespace py = pybind11;

// What messages call a value.
std::string quote(py::handle value);

// What Python has to say about a value, we say ourselves; anything else, such as KeyboardInterrupt, goes on.
void clear_complaint();

// The integer that the value is, or else `otherwise`.
std::int64_t integer(py::handle value, std::int64_t otherwise);

// A masked array, whose mask we would ignore?
bool is_masked(py::handle array);

// Integers or floats of any width?
bool has_real_numbers(py::handle array);

// An array of one or more axes, or a container; a 0-d array counts as its number.
bool is_tree(py::handle value);

// A real number, but not True or False?
bool is_number(py::handle value);

// A string for objects and dictionaries to be asked for at each step; it lives as long as the process.
PyObject* interned(const char* text);

// Null if there is no such key. May run Python code, if keys are not strings.
py::object find(PyObject* dict, PyObject* key);

// NumPy's function of that name, without warnings of overflow and the like.
py::object quiet_numpy(const char* function);

}  // namespace rmsprop_fast
