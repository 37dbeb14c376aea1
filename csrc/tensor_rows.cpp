#include "tensor_rows.hpp"

#include <bit>
#include <optional>
#include <vector>

namespace rmsprop_fast {
namespace {

// Do the values lie as the rows of the parameter do, one after another?
bool has_rows(const RowTensors& tensors, std::size_t axes, std::int64_t count, std::size_t width) {
  const View& params = tensors.params;
  std::vector<std::int64_t> shape{count}, strides{static_cast<std::int64_t>(width)};
  for (std::size_t axis = axes; axis < params.shape.size(); ++axis) {
    shape.push_back(params.shape[axis]);
    strides.push_back(params.strides[axis]);
  }
  const View like{.element = params.element, .shape = shape, .strides = strides, .stride_unit = params.stride_unit};
  return takes(params, grads, tensors.gradient.element) && has_shape(tensors.gradient, shape) &&
         has_order(tensors.gradient, like) && is_aligned(tensors.gradient);
}

bool find_missed(const RowTensors& tensors, std::size_t length, double rho, TensorRows& rows) {
  const auto last = integers_of(tensors.last_touched);
  if (!last || last->shape.size() != 1 || last->shape[0] != static_cast<std::int64_t>(length) + 2) return false;
  if (last->strides[0] != 1 || last->data[length + 1] != std::bit_cast<std::int64_t>(rho)) return false;
  rows.steps = last->data + length;
  rows.touched.last = last->data;
  rows.touched.steps = *rows.steps;
  rows.touched.count = length;
  return true;
}

void read_indices(const RowTensors& tensors, const Integers& indices, std::size_t width, TensorRows& rows) {
  const std::int64_t count = indices.shape[1];
  std::int64_t* const numbers = rows.sums.make_room(static_cast<std::size_t>(count));
  std::int64_t highest = 1;
  for (std::int64_t axis = 0; axis < indices.shape[0]; ++axis) {
    const std::int64_t length = tensors.params.shape[static_cast<std::size_t>(axis)];
    highest *= length;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t index = indices.data[axis * indices.strides[0] + i * indices.strides[1]];
      if (index < 0 || index >= length)
        throw py::value_error(tensors.name() + ".grad: expected indices from 0 to " + std::to_string(length - 1) +
                              " for axis " + std::to_string(axis) + ", got " + std::to_string(index));
      numbers[i] = (axis == 0 ? 0 : numbers[i] * length) + index;
    }
  }
  rows.sums.arrange(width, highest, rows.touched);
}

}  // namespace

bool touch_rows(const RowTensors& tensors, TensorRows& rows, Leaf& leaf) {
  const Hyper& hyper = *leaf.hyper;
  const auto indices = integers_of(tensors.indices);
  if (tensors.indices && (!indices || indices->shape.size() != 2)) return false;
  const auto axes = indices ? static_cast<std::size_t>(indices->shape[0]) : 1;
  if (axes > 1 && (hyper.rowwise || hyper.lazy == Lazy::catch_up)) return false;
  const auto found = row_width(tensors.params, axes);
  if (!found && (indices || (hyper.rowwise && !tensors.params.shape.empty()))) return false;
  const std::size_t width = found.value_or(leaf.size);  // what can have no rows is one row

  rows.touched = {.all = true, .width = width};
  leaf.touched = &rows.touched;
  const auto length = found ? static_cast<std::size_t>(tensors.params.shape[0]) : 1;
  if (hyper.lazy == Lazy::catch_up && !find_missed(tensors, length, hyper.rho, rows)) return false;
  if (!indices) return true;
  if (!has_rows(tensors, axes, indices->shape[1], width)) return false;
  if (hyper.state_dtype == StateDtype::uint8 && width != leaf.blocks.width)
    throw py::value_error(tensors.name() + ".grad: " + wide_rows_expected + std::to_string(width));
  read_indices(tensors, *indices, width, rows);
  if (hyper.lazy != Lazy::dense) leaf.size = gradient_size(leaf);
  return true;
}

}  // namespace rmsprop_fast
