// The kernels: loops over the elements of leaves. What they do with one element is in update.hpp.
//
// CMake compiles this file once per instruction set (RMSPROP_FAST_ISA names it), and the compiler vectorises the loops.
// Each operation is rounded once: CMakeLists.txt turns contraction (FMA) off. Everything but the table is local to the
// file, and the C++ standard library stays out.
#include "kernel.hpp"

#include <float.h>
#include <math.h>
#include <stdint.h>

#include "compact_update.hpp"
#include "limits.hpp"
#include "tile.hpp"
#include "update.hpp"

static_assert(FLT_EVAL_METHOD == 0, "each operation must be rounded to its own type");

#ifdef _MSC_VER
#pragma fp_contract(off)
#endif

namespace rmsprop_fast::RMSPROP_FAST_ISA {
namespace {

// Without their sign, numbers are in the order of their bits as integers, NaN last; integers vectorise here.
inline int32_t magnitude(float x) { return __builtin_bit_cast(int32_t, x) & INT32_MAX; }
inline int64_t magnitude(double x) { return __builtin_bit_cast(int64_t, x) & INT64_MAX; }

// One number for every element.
template <class Real>
struct Everywhere {
  Real number;
  Real operator[](std::size_t) const { return number; }
};

// The numbers of an array, or 1 instead: chosen by bits, as GCC 12 does not vectorise a choice that never changes.
template <class Real>
struct ArrayOrOne {
  using Bits = decltype(magnitude(Real{}));
  ArrayOrOne(const Real* array_, bool is_array)
      : array(array_), kept(is_array ? ~Bits{0} : 0), added(is_array ? 0 : magnitude(Real{1})) {}
  Real operator[](std::size_t i) const {
    return __builtin_bit_cast(Real, (__builtin_bit_cast(Bits, array[i]) & kept) | added);
  }
  const Real* array;
  Bits kept, added;
};

// If rowwise, all have the first of `means`, which is that of this step already.
template <int with, class Real, class Lr, class LrInside, class LrOutside>
void update(Real* __restrict params, const Real* __restrict grads, Real* __restrict means, Real* __restrict grad_means,
            Real* __restrict buffers, Lr lr, LrInside lr_inside, LrOutside lr_outside, const Rounded<Real> h,
            std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    Real p = params[i];
    const Real g = prepared<with>(grads[i], p, h);
    Real s = means[with & variant::rowwise ? 0 : i];
    [[maybe_unused]] Real m = 0, b = 0;
    if constexpr (with & variant::centered) m = grad_means[i];
    if constexpr (with & variant::momentum) b = buffers[i];

    if constexpr (!(with & variant::rowwise)) update_means<with>(g, s, m, h);
    update_parameter<with>(p, g, s, b, lr[i], lr_inside[i], lr_outside[i], h);
    params[i] = p;
    if constexpr (!(with & variant::rowwise)) means[i] = s;
    if constexpr (with & variant::centered) grad_means[i] = m;
    if constexpr (with & variant::momentum) buffers[i] = b;
  }
}

// Inlined by order: in a small step, a call counts.
template <class Real, int with>
[[gnu::always_inline]] inline void update_elements(const Leaf& leaf, const Rounded<Real>& rounded, std::size_t begin,
                                                   std::size_t end) {
  const bool inside = !(with & variant::momentum) || leaf.hyper->lr_in_momentum;
  const bool at_once =
      is_computed_in<Real>(leaf.element) && is_computed_in<Real>(leaf.grad_element) && leaf.g && !is_sum(leaf);
  alignas(64) Real p_tiles[2][tile_size], g_tile[tile_size];
  std::size_t waiting = 0;  // elements of the tile before, to be narrowed while this one is still divided
  for (std::size_t size, turn = 0; begin < end || waiting > 0; begin += size, turn = 1 - turn) {
    size = at_once || end - begin < tile_size ? end - begin : tile_size;
    const auto at = [begin](auto* array) { return array ? array + begin : nullptr; };
    Real* const p = numbers(leaf.p, leaf.element, begin, size, p_tiles[turn]);
    const Real* const g = gradients(leaf, begin, size, g_tile);
    Real* const s = with & variant::rowwise ? static_cast<Real*>(leaf.s) : at(static_cast<Real*>(leaf.s));
    Real* const m = at(static_cast<Real*>(leaf.m));
    Real* const b = at(static_cast<Real*>(leaf.b));
    if constexpr (with & variant::lr_per_element) {
      const Real* lr = at(static_cast<const Real*>(leaf.lr));
      update<with>(p, g, s, m, b, lr, ArrayOrOne<Real>(lr, inside), ArrayOrOne<Real>(lr, !inside), rounded, size);
    } else {
      const Everywhere<Real> lr{static_cast<Real>(leaf.lr_number)}, one{1};
      update<with>(p, g, s, m, b, lr, inside ? lr : one, inside ? one : lr, rounded, size);
    }
    if constexpr (sizeof(Real) == sizeof(float)) {
      const float* const before = p_tiles[1 - turn];
      if (leaf.element == Element::float16) narrow_float16(before, leaf.p, begin - waiting, waiting);
      if (leaf.element == Element::bfloat16) narrow<Bfloat16>(before, leaf.p, begin - waiting, waiting);
    }
    waiting = is_computed_in<Real>(leaf.element) ? 0 : size;
  }
}

// Sums of squares in double: element i belongs to lane i % 16, and lanes are added in halves.
constexpr std::size_t lanes = 16;

// In double the square of a float is exact, so that rounding once or twice makes no difference; where the processor has
// FMA, it halves the time.
template <class Real>
inline double add_square(double sum, Real g) {
  const double x = g;
#if !defined(_MSC_VER) && (defined(__AVX512F__) || defined(__FMA__) || defined(__ARM_FEATURE_FMA))
  if constexpr (sizeof(Real) == sizeof(float)) return __builtin_fma(x, x, sum);
#endif
  return sum + x * x;
}

// A single stream is read no faster than it is asked for: without this, looking at gradients that are not in cache
// takes up to a quarter longer (benchmarks/test_targets.py, test_family). It also keeps GCC 12 from holding the sums
// one by one in registers, which is scalar.
inline void prefetch_ahead([[maybe_unused]] const void* address) {
#ifndef _MSC_VER
  constexpr uintptr_t distance = 16 * 1024;
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(address) + distance));
#endif
}

// `rows` are the numbers that lie at `source` in memory. Not inlined, or GCC 12 makes scalar code of it here and there.
template <class Real>
[[gnu::noinline]] void add_rows(double* __restrict sums, const Real* __restrict rows, std::size_t size,
                                const char* source, std::size_t bytes) {
  for (std::size_t i = 0; i < size; i += lanes) {
    prefetch_ahead(source + i * bytes);
    for (std::size_t lane = 0; lane < lanes; ++lane) sums[lane] = add_square(sums[lane], rows[i + lane]);
  }
}

// Of the gradient; or if rowwise, of what it is prepared to.
template <class Real, int with>
double sum_of_squares(const Leaf& leaf, [[maybe_unused]] const Rounded<Real>* rounded, std::size_t begin,
                      std::size_t end) {
  const std::size_t bytes = element_types[static_cast<int>(leaf.grad_element)].size;
  double sums[lanes] = {};
  alignas(64) Real tile[tile_size];
  [[maybe_unused]] alignas(64) Real p_tile[tile_size];
  for (std::size_t size; begin < end; begin += size) {
    size = end - begin < tile_size ? end - begin : tile_size;
    const Real* g = gradients(leaf, begin, size, tile);
    if constexpr (with & variant::rowwise) {
      const Real* const p = with & variant::l2 ? numbers(leaf.p, leaf.element, begin, size, p_tile) : g;
      for (std::size_t i = 0; i < size; ++i) tile[i] = prepared<with>(g[i], p[i], *rounded);
      g = tile;
    }
    const std::size_t whole_rows = (size + lanes - 1) / lanes * lanes;
    if (whole_rows > size) {  // zeros change no sum
      for (std::size_t i = 0; i < whole_rows; ++i) tile[i] = i < size ? g[i] : Real{0};
      g = tile;
    }
    add_rows(sums, g, whole_rows, static_cast<const char*>(leaf.g) + (leaf.g_begin + begin) * bytes, bytes);
  }
  for (std::size_t half = lanes / 2; half > 0; half /= 2)
    for (std::size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

template <class Real>
double sum_of_squares(const Leaf& leaf, std::size_t begin, std::size_t end) {
  return sum_of_squares<Real, 0>(leaf, nullptr, begin, end);
}

template <class Real, int with>
void update_leaf(const Leaf& leaf, const Factors& factors, std::size_t begin, std::size_t end) {
  const Rounded<Real> rounded(*leaf.hyper, factors);
  if constexpr (with & variant::rowwise) {
    const std::size_t width = leaf.touched->width;
    Leaf row = leaf;
    for (; begin < end; begin += width) {
      Real* const s = static_cast<Real*>(leaf.s) + begin / width;
      const double sum = sum_of_squares<Real, with>(leaf, &rounded, begin, begin + width);
      *s = rounded.rho * *s + rounded.one_minus_rho * static_cast<Real>(sum / static_cast<double>(width));
      row.s = s;
      update_elements<Real, with>(row, rounded, begin, begin + width);
    }
  } else {
    update_elements<Real, with>(leaf, rounded, begin, end);
  }
}

template <class Real>
double largest(const Leaf& leaf, std::size_t begin, std::size_t end) {
  auto most = magnitude(Real{0});
  alignas(64) Real tile[tile_size];
  for (std::size_t size; begin < end; begin += size) {
    size = end - begin < tile_size ? end - begin : tile_size;
    const Real* g = gradients(leaf, begin, size, tile);
    for (std::size_t i = 0; i < size; ++i) {
      const auto bits = magnitude(g[i]);
      most = bits > most ? bits : most;
    }
  }
  return static_cast<double>(__builtin_bit_cast(Real, most));
}

template <class Real>
void scale(void* values, double factor, std::size_t size) {
  Real* const numbers = static_cast<Real*>(values);
  const Real rounded = static_cast<Real>(factor);
  for (std::size_t i = 0; i < size; ++i) numbers[i] = numbers[i] * rounded;
}

template <int with>
void update_compact(const Leaf& leaf, const Factors& factors, std::size_t begin, std::size_t end) {
  const bool is_compact = leaf.hyper->state_dtype != StateDtype::compute_type || has_compact_parameters(leaf);
  if constexpr (with == 0)
    if ((is_compact || leaf.element == Element::bfloat16) &&
        update_in_place(leaf, Rounded<float>(*leaf.hyper, factors), begin, end))
      return;
  if (is_compact)
    update_in_tiles(leaf, factors, begin, end, update_leaf<float, with>);
  else
    update_leaf<float, with>(leaf, factors, begin, end);
}

template <class Real, int with = 0>
constexpr void fill(Kernel* row) {
  if constexpr (variant::exists(with)) row[with] = update_leaf<Real, with>;
  if constexpr (with + 1 < variant::count) fill<Real, with + 1>(row);
}
template <int with = 0>
constexpr void fill_compact(Kernel* row) {
  if constexpr (variant::exists(with) && !(with & variant::rowwise)) row[with] = update_compact<with>;
  if constexpr (with + 1 < variant::count) fill_compact<with + 1>(row);
}

constexpr KernelTable make_table() {
  KernelTable table{.name = RMSPROP_FAST_ISA_NAME,
                    .update = {},
                    .update_compact = {},
                    .pack = pack,
                    .unpack = unpack,
                    .sum_of_squares = {sum_of_squares<float>, sum_of_squares<double>},
                    .largest = {largest<float>, largest<double>},
                    .scale = {scale<float>, scale<double>},
                    .move_streams = move_streams,
                    .divide_and_root = divide_and_root};
  fill<float>(table.update[static_cast<int>(Element::float32)]);
  fill<double>(table.update[static_cast<int>(Element::float64)]);
  fill_compact(table.update_compact);
  return table;
}

}  // namespace

constexpr KernelTable kernels = make_table();

}  // namespace rmsprop_fast::RMSPROP_FAST_ISA
