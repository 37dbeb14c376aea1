// What the memory of leaves must be like.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "leaf.hpp"

namespace rmsprop_fast {

using Numbers = std::span<const std::int64_t>;

// Do the elements fill one block of memory without gaps, with the axes in any order? Strides in elements.
bool is_dense(Numbers shape, Numbers strides);

// Do arrays of this shape lie in the same order? Axes of length 1 do not count, nor does any of an empty array.
bool same_order(Numbers shape, Numbers strides, Numbers others);

// An array of a leaf.
struct Place {
  std::size_t leaf;
  void* Leaf::* written;  // null: the gradients
};

// Two arrays that share memory, at least one of which is written.
std::optional<std::pair<Place, Place>> find_overlap(std::span<const Leaf> leaves);

}  // namespace rmsprop_fast
