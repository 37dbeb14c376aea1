// Numbers as they lie in memory -> numbers of the compute type, a tile at a time, and back; for kernel.cpp alone.
//
// Halves are widened, the values of a sparse gradient are added up, and a gradient that is not there is zeros.
#pragma once

#include <cstddef>

#include "half.hpp"
#include "kernel.hpp"

namespace rmsprop_fast::RMSPROP_FAST_ISA {
namespace {

// Are numbers of this type computed with as they lie in memory?
template <class Real>
bool is_computed_in(Element element) {
  return element == (sizeof(Real) == sizeof(float) ? Element::float32 : Element::float64);
}

template <class Half>
inline void widen(const void* halves, std::size_t begin, std::size_t size, float* __restrict tile) {
  const Half* from = static_cast<const Half*>(halves) + begin;
  for (std::size_t i = 0; i < size; ++i) tile[i] = load(from[i]);
}

template <class Half>
inline void narrow(const float* __restrict tile, void* halves, std::size_t begin, std::size_t size) {
  Half* to = static_cast<Half*>(halves) + begin;
  for (std::size_t i = 0; i < size; ++i) store(to[i], tile[i]);
}

// These take so many instructions that a copy in each kernel would add a third to the size of the module.
[[gnu::noinline]] void widen_float16(const void* halves, std::size_t begin, std::size_t size, float* tile) {
  widen<Float16>(halves, begin, size, tile);
}
[[gnu::noinline]] void narrow_float16(const float* tile, void* halves, std::size_t begin, std::size_t size) {
  narrow<Float16>(tile, halves, begin, size);
}

// The numbers of an array from `begin` on in the compute type: those in memory, or halves widened into a tile.
template <class Real>
inline Real* numbers(void* array, Element element, std::size_t begin, std::size_t size, Real* tile) {
  if constexpr (sizeof(Real) == sizeof(float)) {
    if (element == Element::float16) widen_float16(array, begin, size, tile);
    if (element == Element::bfloat16) widen<Bfloat16>(array, begin, size, tile);
  }
  return is_computed_in<Real>(element) ? static_cast<Real*>(array) + begin : tile;
}

// Rows of a sparse gradient lie anywhere among its values, and the processor does not guess where the next ones are.
inline void prefetch_value([[maybe_unused]] const Leaf& leaf, [[maybe_unused]] std::size_t at,
                           [[maybe_unused]] std::size_t size) {
#ifndef _MSC_VER
  const std::size_t bytes = element_types[static_cast<int>(leaf.grad_element)].size;
  for (std::size_t k = 0; k < size * bytes; k += 64)
    __builtin_prefetch(static_cast<const char*>(leaf.g) + at * bytes + k);
  asm volatile("");  // or GCC 12 takes this for a function that does nothing, and leaves out its calls
#endif
}

// Adds up the elements of a sparse gradient from `begin` on, see Touched, into a tile.
template <class Real>
void add_up(const Leaf& leaf, std::size_t begin, std::size_t size, Real* __restrict tile) {
  constexpr std::size_t ahead = 8;  // values
  const Touched& touched = *leaf.touched;
  alignas(64) Real value_tile[tile_size];
  for (std::size_t row = begin / touched.width, done = 0, part; done < size; ++row, done += part) {
    const std::size_t column = begin + done - row * touched.width, left = touched.width - column;
    part = size - done < left ? size - done : left;
    for (std::size_t i = touched.first[row]; i < touched.first[row + 1]; ++i) {
      if (i + ahead < touched.values) prefetch_value(leaf, touched.places[i + ahead] * touched.width + column, part);
      const Real* const values = numbers(const_cast<void*>(leaf.g), leaf.grad_element,
                                         touched.places[i] * touched.width + column, part, value_tile);
      Real* const sums = tile + done;
      if (i == touched.first[row])
        for (std::size_t k = 0; k < part; ++k) sums[k] = values[k];
      else
        for (std::size_t k = 0; k < part; ++k) sums[k] = sums[k] + values[k];
    }
  }
}

inline bool is_sum(const Leaf& leaf) { return leaf.touched && leaf.touched->first; }

// As numbers(), of the gradient.
template <class Real>
inline const Real* gradients(const Leaf& leaf, std::size_t begin, std::size_t size, Real* tile) {
  if (leaf.g && !is_sum(leaf))
    return numbers(const_cast<void*>(leaf.g), leaf.grad_element, leaf.g_begin + begin, size, tile);
  if (leaf.g)
    add_up(leaf, leaf.g_begin + begin, size, tile);
  else
    for (std::size_t i = 0; i < size; ++i) tile[i] = 0;
  return tile;
}

}  // namespace
}  // namespace rmsprop_fast::RMSPROP_FAST_ISA
