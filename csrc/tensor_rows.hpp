// Sparse gradients as PyTorch has them: the indices and values of a tensor in COO format -> rows.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <string>

#include "rows.hpp"
#include "tensors.hpp"

namespace rmsprop_fast {

// What is known of a parameter's rows.
struct RowTensors {
  const View& params;
  const View& gradient;            // if sparse, its values
  const py::object& indices;       // null: the gradient is dense
  const py::object& last_touched;  // Lazy::catch_up: for each row, the last step that touched it; then the number of
                                   // steps, and the bits of rho in these
  const std::function<std::string()>& name;
};

struct TensorRows {
  RowSums sums;
  Touched touched;
  std::int64_t* steps = nullptr;  // Lazy::catch_up: the number of steps, to be counted on
};

// Points a leaf to the rows that its gradient has, or to all. False: something does not fit. Throws if an index is out
// of range.
bool touch_rows(const RowTensors& tensors, TensorRows& rows, Leaf& leaf);

}  // namespace rmsprop_fast
