// Sparse gradients as Python has them: rmsprop_fast.Rows, and the matrices of scipy.sparse.
#pragma once

#include <pybind11/pybind11.h>

#include "arrays.hpp"
#include "rows.hpp"

namespace rmsprop_fast {

// Some rows of a gradient: rows (k,) are integers, and values (k, ...) theirs.
struct Rows {
  py::object rows, values;
};

bool is_sparse(py::handle object);

// The values of a sparse gradient as they came, and where they are for as long as their owner lives.
struct Values {
  py::object owner;
  Memory memory;
};

// Reads a sparse gradient of a parameter with this layout; or throws.
Values read_rows(py::handle gradient, const Layout& layout, const Name& name, RowSums& sums, Touched& touched);

}  // namespace rmsprop_fast
