#include "sparse.hpp"

#include <pybind11/numpy.h>

#include <algorithm>
#include <cstring>

namespace rmsprop_fast {
namespace {

// Integers of 32 or 64 bits, one after another.
struct Integers {
  py::object owner;
  const char* data;
  std::int64_t stride, count;
  bool is_long;

  std::int64_t operator[](std::int64_t i) const {
    const char* const at = data + i * stride;
    std::int32_t number = 0;
    std::int64_t long_number = 0;
    if (is_long) return std::memcpy(&long_number, at, sizeof long_number), long_number;
    return std::memcpy(&number, at, sizeof number), number;
  }
};

Integers require_integers(py::handle object, const std::string& name) {
  if (!py::isinstance<py::array>(object) || is_masked(object))
    throw py::type_error(name + ": expected an array of int32 or int64, got " + Py_TYPE(object.ptr())->tp_name);
  const auto array = py::reinterpret_borrow<py::array>(object);
  const bool is_long = array.dtype().equal(py::dtype::of<std::int64_t>());
  if (!is_long && !array.dtype().equal(py::dtype::of<std::int32_t>()))
    throw py::type_error(name + ": expected int32 or int64, got " + describe(array));
  if (array.ndim() != 1) throw py::value_error(name + ": expected one axis, got " + describe(array));
  return {array, static_cast<const char*>(array.data()), array.strides(0), array.shape(0), is_long};
}

[[noreturn]] void refuse_number(const std::string& name, std::int64_t at, std::int64_t from, std::int64_t to,
                                std::int64_t got) {
  throw py::value_error(name + "[" + std::to_string(at) + "]: expected a number from " + std::to_string(from) + " to " +
                        std::to_string(to) + ", got " + std::to_string(got));
}

std::int64_t require_in(const Integers& integers, std::int64_t i, std::int64_t length, const std::string& name) {
  const std::int64_t number = integers[i];
  if (number < 0 || number >= length) refuse_number(name, i, 0, length - 1, number);
  return number;
}

Memory require_values(py::handle values, Element element, std::vector<std::int64_t> shape,
                      std::vector<std::int64_t> strides, const Name& name) {
  const Layout expected{element, std::move(shape), std::move(strides), 0};
  return require_fit(values, view_of(expected), Part::grads, name);
}

// Each stored element of a matrix is a row of its own: the element's place in memory.
class Elements {
 public:
  Elements(py::handle matrix, const Layout& layout, const Name& name)
      : matrix_(matrix), layout_(layout), name_(name()), format_(py::str(matrix.attr("format"))) {
    const std::string shape = py::str(matrix.attr("shape"));
    if (shape != tuple_text(layout.shape))
      throw py::value_error(name_ + ": expected shape " + tuple_text(layout.shape) + ", got " + shape);
  }

  // The values and where they are, once: a matrix may make its arrays anew whenever it is asked.
  Values read(const Name& name, RowSums& sums) const {
    const py::object values = matrix_.attr("data");
    const auto count = py::isinstance<py::array>(values) ? py::reinterpret_borrow<py::array>(values).size() : 0;
    std::int64_t* const places = sums.make_room(static_cast<std::size_t>(count));
    if (format_ == "coo")
      read_pairs(places, count);
    else if (format_ == "csr")
      read_compressed(places, count, 0);
    else if (format_ == "csc")
      read_compressed(places, count, 1);
    else
      throw py::type_error(name_ + ": expected a sparse matrix in CSR, CSC or COO format, got " + format_);
    return {values, require_values(values, layout_.element, {count}, {1}, name)};
  }

 private:
  Integers integers(const char* attribute) const {
    return require_integers(matrix_.attr(attribute), name_ + "." + attribute);
  }

  void require_length(const Integers& integers, const char* attribute, std::int64_t length) const {
    if (integers.count != length)
      throw py::value_error(name_ + "." + attribute + ": expected " + std::to_string(length) + " numbers, got " +
                            std::to_string(integers.count));
  }

  std::int64_t place(std::int64_t row, std::int64_t column) const {
    return row * layout_.strides[0] + column * layout_.strides[1];
  }

  void read_pairs(std::int64_t* places, std::int64_t count) const {
    const std::string row_name = name_ + ".row", column_name = name_ + ".col";
    const Integers rows = integers("row"), columns = integers("col");
    require_length(rows, "row", count);
    require_length(columns, "col", count);
    for (std::int64_t i = 0; i < count; ++i)
      places[i] =
          place(require_in(rows, i, layout_.shape[0], row_name), require_in(columns, i, layout_.shape[1], column_name));
  }

  void read_compressed(std::int64_t* places, std::int64_t count, std::size_t axis) const {
    const Integers starts = integers("indptr"), indices = integers("indices");
    const std::string indices_name = name_ + ".indices";
    require_length(starts, "indptr", layout_.shape[axis] + 1);
    require_length(indices, "indices", count);
    for (std::int64_t i = 0, end = 0; i <= layout_.shape[axis]; ++i) {
      const std::int64_t begin = end;
      end = starts[i];
      if (end < begin || end > count || (i == 0 && end != 0) || (i == layout_.shape[axis] && end != count))
        refuse_number(name_ + ".indptr", i, i == layout_.shape[axis] ? count : begin, i == 0 ? 0 : count, end);
      for (std::int64_t k = begin; k < end; ++k) {
        const std::int64_t index = require_in(indices, k, layout_.shape[1 - axis], indices_name);
        if (k > begin && index <= indices[k - 1])
          throw py::value_error(name_ +
                                ": expected sorted indices without duplicates (sum_duplicates() makes them so), got " +
                                std::to_string(index) + " after " + std::to_string(indices[k - 1]));
        places[k] = axis == 0 ? place(i - 1, index) : place(index, i - 1);
      }
    }
  }

  py::handle matrix_;
  const Layout& layout_;
  std::string name_, format_;
};

}  // namespace

bool is_sparse(py::handle object) {
  if (py::isinstance<Rows>(object)) return true;
  const auto name = py::str("scipy.sparse");  // until somebody imports it, there are no such matrices
  const auto module = py::reinterpret_steal<py::object>(PyImport_GetModule(name.ptr()));
  return module && py::cast<bool>(module.attr("issparse")(object));
}

Values read_rows(py::handle gradient, const Layout& layout, const Name& name, RowSums& sums, Touched& touched) {
  if (!py::isinstance<Rows>(gradient)) {
    if (layout.shape.size() != 2)
      throw py::value_error(name() + ": expected a dense array or Rows for a parameter of shape " +
                            tuple_text(layout.shape) + ", got a sparse matrix");
    Values values = Elements(gradient, layout, name).read(name, sums);
    sums.arrange(1, static_cast<std::int64_t>(layout.size), touched);
    return values;
  }
  const Rows given = gradient.cast<const Rows&>();
  if (layout.shape.empty()) throw py::value_error(name() + ": expected a number or an array without axes, got Rows");
  const Integers rows = require_integers(given.rows, name() + ".rows");
  const auto width = row_width(view_of(layout));
  if (!width)
    throw py::value_error(name() + ": expected a parameter whose first axis is the outermost in memory, got strides " +
                          tuple_text(in_bytes(layout.strides, layout.element)));
  std::vector<std::int64_t> shape = layout.shape, strides = layout.strides;  // in memory, a row lies as the parameter's
  shape[0] = rows.count;
  strides[0] = static_cast<std::int64_t>(*width);
  const Memory memory = require_values(given.values, layout.element, shape, strides, name);
  std::int64_t* const places = sums.make_room(static_cast<std::size_t>(rows.count));
  const std::string rows_name = name() + ".rows";
  for (std::int64_t i = 0; i < rows.count; ++i) places[i] = require_in(rows, i, layout.shape[0], rows_name);
  sums.arrange(*width, layout.shape[0], touched);
  return {given.values, memory};
}

}  // namespace rmsprop_fast
