// The rules for the memory of a leaf's arrays, once for all front ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "leaf.hpp"

namespace rmsprop_fast {

using Numbers = std::span<const std::int64_t>;

// What a leaf consists of: parameters, gradients, and kept arrays in the order of their table.
enum Part : std::size_t { params, grads, first_kept };
constexpr std::size_t parts = first_kept + std::size(kept_arrays);

// An array as its owner describes it. Null `data` in a non-empty one: it has no memory.
struct View {
  void* data = nullptr;
  Element element = Element::float32;
  Numbers shape = {}, strides = {};
  std::int64_t stride_unit = 1;  // in bytes
  bool is_writeable = true;

  std::int64_t element_size() const { return static_cast<std::int64_t>(size_of(element)); }
};

std::size_t size_of(const View& view);

inline bool has_shape(const View& view, Numbers shape) {
  if (view.shape.size() != shape.size()) return false;
  for (std::size_t axis = 0; axis < shape.size(); ++axis)  // a call of the library would take longer
    if (view.shape[axis] != shape[axis]) return false;
  return true;
}

// Of arrays of one shape; the strides of `like` are in elements. Strides of axes of length 1 do not count, nor does any
// of an empty array.
inline bool has_order(const View& view, const View& like) {
  bool same = true;
  for (std::size_t axis = 0; axis < view.shape.size(); ++axis) {
    if (view.shape[axis] == 0) return true;
    same &= view.shape[axis] == 1 || view.strides[axis] * view.stride_unit == like.strides[axis] * view.element_size();
  }
  return same;
}

inline bool takes(const View& like, std::size_t part, Element element) {
  if (part == params) return element == like.element;
  if (part == grads) return takes_gradient(like.element, element);
  return element == compute_type(like.element);
}

inline bool is_aligned(const View& view) {
  return (reinterpret_cast<std::uintptr_t>(view.data) & (size_of(view.element) - 1)) == 0;
}

// What is wrong with an array for that part of a leaf, the parameters of which are like `like`: in type, shape and
// memory order.
enum class Why { element, shape, order, address, read_only };
inline std::optional<Why> misfit(const View& like, std::size_t part, const View& view) {
  if (!takes(like, part, view.element)) return Why::element;
  if (!has_shape(view, like.shape)) return Why::shape;
  if (!has_order(view, like)) return Why::order;
  if (part != grads && !view.is_writeable) return Why::read_only;
  if (!is_aligned(view)) return Why::address;
  return std::nullopt;
}

// Do the elements fill one block of memory without gaps, with the axes in any order?
bool is_dense(const View& view);

// How many elements a row of the parameter has, if rows are counted along so many axes from the first one on; null:
// rows do not lie one after another in memory.
std::optional<std::size_t> row_width(const View& params, std::size_t axes = 1);

// As above, of a kept array with one number a row.
std::optional<Why> misfit_by_row(const View& params, const View& view);

// The blocks of codes of parameters like these.
BlockLayout block_layout(const View& params);

inline bool are_in_same_memory(const Leaf& a, const Leaf& b) {
  return a.p == b.p && a.g == b.g && a.s == b.s && a.m == b.m && a.b == b.b && a.low == b.low && a.size == b.size &&
         a.element == b.element && a.grad_element == b.grad_element;
}

// An array of a leaf.
struct Place {
  std::size_t leaf;
  std::size_t part;
};

// Two arrays that share memory, at least one of which is written.
std::optional<std::pair<Place, Place>> find_overlap(std::span<const Leaf> leaves);

}  // namespace rmsprop_fast
