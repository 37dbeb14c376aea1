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

// The arrays are dense, share one memory order and do not overlap, so a kernel sees them as `size` elements in a row.
// p and g are of their element types, the others of the compute type. Null: this state has no such array.
struct Leaf {
  void* p = nullptr;         // parameters, updated in place
  const void* g = nullptr;   // gradients; null: zeros
  void* s = nullptr;         // running mean of the squared gradient, or its variance with `m`; updated in place
  void* m = nullptr;         // centered: running mean of the gradient, updated in place
  void* b = nullptr;         // momentum buffer, updated in place
  const void* lr = nullptr;  // learning rates of each element; null: `lr_number` is everybody's
  double lr_number = 0;
  std::size_t size = 0;
  std::size_t g_begin = 0;  // where in the gradient these elements begin
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
    {&Leaf::b, "momentum_buffer", "momentum_buffer", [](const Hyper& hyper) { return hyper.momentum > 0; }, nullptr}};

// Has this array one number for each row?
inline bool is_by_row(const KeptArray& kept, const Hyper& hyper) { return hyper.rowwise && kept.member == &Leaf::s; }

inline std::size_t size_of(const KeptArray& kept, const Leaf& leaf) {
  return is_by_row(kept, *leaf.hyper) && leaf.size > 0 ? leaf.size / leaf.touched->width : leaf.size;
}

}  // namespace rmsprop_fast
