#include "values.hpp"

#include <pybind11/numpy.h>

namespace rmsprop_fast {

std::string quote(py::handle value) {
  try {
    return py::repr(value);
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;  // KeyboardInterrupt, say
    return std::string("an object of type ") + Py_TYPE(value.ptr())->tp_name;
  }
}

void clear_complaint() {
  if (!PyErr_ExceptionMatches(PyExc_TypeError) && !PyErr_ExceptionMatches(PyExc_ValueError) &&
      !PyErr_ExceptionMatches(PyExc_OverflowError))
    throw py::error_already_set();
  PyErr_Clear();
}

std::int64_t integer(py::handle value, std::int64_t otherwise) {
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  const std::int64_t number = index ? PyLong_AsLongLong(index.ptr()) : otherwise;
  if (!PyErr_Occurred()) return number;
  clear_complaint();
  return otherwise;
}

bool is_masked(py::handle array) {
  // While numpy.ma was not imported, nothing is one; importing it here could run other Python threads.
  const auto name = py::str("numpy.ma");
  const auto module = py::reinterpret_steal<py::object>(PyImport_GetModule(name.ptr()));
  return module && py::isinstance(array, module.attr("MaskedArray"));
}

bool has_real_numbers(py::handle array) {
  const auto dtype = array.attr("dtype");
  return std::string("fiu").find(py::str(dtype.attr("kind"))) != std::string::npos ||
         py::str(dtype).equal(py::str("bfloat16"));
}

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

PyObject* interned(const char* text) {
  PyObject* const string = PyUnicode_InternFromString(text);
  if (!string) throw py::error_already_set();
  return string;
}

py::object find(PyObject* dict, PyObject* key) {
  PyObject* const value = PyDict_GetItemWithError(dict, key);
  if (!value && PyErr_Occurred()) throw py::error_already_set();
  return py::reinterpret_borrow<py::object>(value);
}

py::object quiet_numpy(const char* function) {
  const auto numpy = py::module_::import("numpy");
  return numpy.attr("errstate")(py::arg("all") = "ignore")(numpy.attr(function));
}

}  // namespace rmsprop_fast
