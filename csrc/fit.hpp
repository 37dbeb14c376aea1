// The rules for the memory of a leaf's arrays, once for all front ends: views of arrays -> a leaf, or what does not
// fit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "leaf.hpp"

namespace rmsprop_fast {

using Numbers = std::span<const std::int64_t>;

// An array as its owner describes it. Null `data` in a non-empty one: it has no memory.
struct View {
  void* data = nullptr;
  Element element = Element::float32;
  Numbers shape, strides;
  std::int64_t stride_unit = 1;  // in bytes
  bool is_writeable = true;
};

std::size_t size_of(const View& view);

// What a leaf consists of: parameters, gradients, and kept arrays in the order of their table.
enum Part : std::size_t { params, grads, first_kept };
constexpr std::size_t parts = first_kept + std::size(kept_arrays);
using Views = std::array<const View*, parts>;  // null: the leaf has no such array

enum class Why { element, shape, order, gaps, address, read_only };
struct Misfit {
  std::size_t part;
  Why why;
};

// Points a leaf to these arrays, of which the parameters are like `like`: in type, shape and memory order.
std::optional<Misfit> fit(const View& like, const Views& views, Leaf& leaf);

// Do the elements fill one block of memory without gaps, with the axes in any order?
bool is_dense(const View& view);

// An array of a leaf.
struct Place {
  std::size_t leaf;
  std::size_t part;
};

// Two arrays that share memory, at least one of which is written.
std::optional<std::pair<Place, Place>> find_overlap(std::span<const Leaf> leaves);

}  // namespace rmsprop_fast
