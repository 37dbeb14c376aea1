// A leaf: one parameter array with all that belongs to it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "elements.hpp"
#include "hyper.hpp"

namespace rmsprop_fast {

// The rows of a parameter, and those that a sparse gradient has. Row r is the elements [r * width, (r + 1) * width).
struct Touched {
  bool all = false;                    // the gradient is dense, and touches all rows
  const std::int64_t* rows = nullptr;  // else: in order, each once; the gradient has one after another
  std::size_t count = 0;
  std::size_t width = 1;
  // `g` has values for rows as they came. Row number i is the sum of those at places[first[i]] to places[first[i + 1] -
  // 1]. Null: they came in order, each once.
  const std::size_t* first = nullptr;
  const std::size_t* places = nullptr;
  std::size_t values = 0;  // rows that came
  // Lazy::catch_up: in which step each row was touched last, counted from 1; behind them, the number of steps so far.
  std::int64_t* last = nullptr;
  std::int64_t steps = 0;
};

// With StateDtype::uint8, an array is a byte for each element, and behind them all a byte for each block: its exponent.
// A block is up to `code_block` elements. None reaches over the end of a row, so that rows can be updated alone.
constexpr std::size_t code_block = 128;
struct BlockLayout {
  std::size_t width = 0;  // of a row
  std::size_t size = 0;   // elements of the array
};

inline std::size_t count_of(const BlockLayout& blocks) {
  return blocks.size == 0 ? 0 : blocks.size / blocks.width * ((blocks.width + code_block - 1) / code_block);
}

// The arrays are dense, share one memory order and do not overlap, so a kernel sees them as `size` elements in a row.
// p and g are of their element types; s, m and b of the compute type or as the hyper-parameters have them kept. Null:
// this state has no such array.
struct Leaf {
  void* p = nullptr;         // parameters, updated in place
  const void* g = nullptr;   // gradients; null: zeros
  void* s = nullptr;         // running mean of the squared gradient, or its variance with `m`; updated in place
  void* m = nullptr;         // centered: running mean of the gradient, updated in place
  void* b = nullptr;         // momentum buffer, updated in place
  void* low = nullptr;       // bits of p below those of bfloat16, updated in place
  const void* lr = nullptr;  // learning rates of each element; null: `lr_number` is everybody's
  double lr_number = 0;
  std::size_t size = 0;
  std::size_t g_begin = 0;  // where in the gradient that of element 0 is, if it has it; may wrap around
  BlockLayout blocks = {};  // StateDtype::uint8
  Element element = Element::float32;
  Element grad_element = Element::float32;
  const Hyper* hyper = nullptr;      // may be those of many leaves
  double steps = 0;                  // that were taken before this one
  const Touched* touched = nullptr;  // null: rows do not matter
};

// How many elements the gradient has.
inline std::size_t gradient_size(const Leaf& leaf) {
  return leaf.touched && !leaf.touched->all ? leaf.touched->count * leaf.touched->width : leaf.size;
}

// An array that is kept between steps, if the hyper-parameters ask for it.
struct KeptArray {
  void* Leaf::* member;
  const char* name;
  const char* torch_name;
  bool (*is_used)(const Hyper& hyper);
  double Hyper::* initial;  // what it starts at; null: 0
};
constexpr KeptArray kept_arrays[] = {
    {&Leaf::s, "s", "square_avg", [](const Hyper& hyper) { return !hyper.centered; }, &Hyper::initial_s},
    {&Leaf::s, "variance", "variance", [](const Hyper& hyper) { return hyper.centered; }, &Hyper::initial_s},
    {&Leaf::m, "grad_avg", "grad_avg", [](const Hyper& hyper) { return hyper.centered; }, nullptr},
    {&Leaf::b, "momentum_buffer", "momentum_buffer", [](const Hyper& hyper) { return hyper.momentum > 0; }, nullptr},
    {&Leaf::low, "low_order_bits", "low_order_bits", [](const Hyper& hyper) { return hyper.low_bits > 0; }, nullptr}};

// Is it kept, by its place in the table?
inline bool is_kept(std::size_t place, const Hyper& hyper) { return (hyper.kept >> place & 1) != 0; }

// Has this array one number for each row?
inline bool is_by_row(const KeptArray& kept, const Hyper& hyper) { return hyper.rowwise && kept.member == &Leaf::s; }

// Is it of another type than the compute type?
inline bool is_packed(const KeptArray& kept, const Hyper& hyper) {
  return kept.member == &Leaf::low || hyper.state_dtype != StateDtype::compute_type;
}

// For each number of s, m and b.
inline std::size_t bytes_of_mean(const Leaf& leaf) {
  if (leaf.hyper->state_dtype == StateDtype::compute_type) return size_of(compute_type(leaf.element));
  return leaf.hyper->state_dtype == StateDtype::bfloat16 ? 2 : 1;
}

// How many bytes the array has for the elements of the leaf.
inline std::size_t bytes_of(const KeptArray& kept, const Leaf& leaf) {
  if (kept.member == &Leaf::low)
    return leaf.element == Element::bfloat16 ? leaf.size * static_cast<std::size_t>(leaf.hyper->low_bits) / 8 : 0;
  const std::size_t exponents = leaf.hyper->state_dtype == StateDtype::uint8 ? count_of(leaf.blocks) : 0;
  const std::size_t size = is_by_row(kept, *leaf.hyper) && leaf.size > 0 ? leaf.size / leaf.touched->width : leaf.size;
  return size * bytes_of_mean(leaf) + exponents;
}

}  // namespace rmsprop_fast
