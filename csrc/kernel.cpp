// The update: the only arithmetic of the package, written once.
//
// CMake compiles this file once per instruction set (RMSPROP_FAST_ISA names it), and the compiler vectorises the loops.
// Every operation is rounded once, in the compute type, in the order of rmsprop_fast.reference: CMakeLists.txt turns
// contraction (FMA) off. Everything but the table is local to the file, and the C++ standard library stays out.
#include "kernel.hpp"

#include <float.h>
#include <math.h>
#include <stdint.h>

#include "half.hpp"
#include "limits.hpp"

static_assert(FLT_EVAL_METHOD == 0, "each operation must be rounded to its own type");

#ifdef _MSC_VER
#pragma fp_contract(off)
#endif

namespace rmsprop_fast::RMSPROP_FAST_ISA {
namespace {

inline float load(float x) { return x; }
inline double load(double x) { return x; }
inline void store(float& to, float x) { to = x; }
inline void store(double& to, double x) { to = x; }

template <class Stored>
using Compute = decltype(load(Stored{}));

inline float square_root(float x) { return sqrtf(x); }
inline double square_root(double x) { return sqrt(x); }

// Without their sign, numbers are in the order of their bits as integers, NaN last; integers vectorise here.
inline int32_t magnitude(float x) { return __builtin_bit_cast(int32_t, x) & INT32_MAX; }
inline int64_t magnitude(double x) { return __builtin_bit_cast(int64_t, x) & INT64_MAX; }

// The hyper-parameters of a step: computed in double and rounded once, here.
template <class Real>
struct Rounded {
  Rounded(const Hyper& hyper, double rho_t, double multiplier_)
      : multiplier(static_cast<Real>(multiplier_)),
        clip_value(static_cast<Real>(hyper.clip_value)),
        weight_decay(static_cast<Real>(hyper.weight_decay)),
        rho(static_cast<Real>(rho_t)),
        one_minus_rho(static_cast<Real>(1 - rho_t)),
        rho_one_minus_rho(static_cast<Real>(rho_t * (1 - rho_t))),
        eps(static_cast<Real>(hyper.eps)),
        eps_inside(hyper.eps_inside_sqrt ? eps : 0),
        eps_outside(hyper.eps_inside_sqrt ? 0 : eps),
        momentum(static_cast<Real>(hyper.momentum)) {}

  Real multiplier, clip_value, weight_decay;
  Real rho, one_minus_rho, rho_one_minus_rho;
  Real eps, eps_inside, eps_outside;
  Real momentum;
};

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

// lr is inside the momentum buffer or outside; where it is not, there is 1.
template <int with, class Param, class Grad, class Real, class Lr, class LrInside, class LrOutside>
void update(Param* __restrict params, const Grad* __restrict grads, Real* __restrict means, Real* __restrict grad_means,
            Real* __restrict buffers, Lr lr, LrInside lr_inside, LrOutside lr_outside, const Rounded<Real> h,
            std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    Real p = load(params[i]);
    Real g = load(grads[i]);
    Real s = means[i];
    [[maybe_unused]] Real m = 0, b = 0;
    if constexpr (with & variant::centered) m = grad_means[i];
    if constexpr (with & variant::momentum) b = buffers[i];

    if constexpr (with & variant::options) {
      g = h.multiplier * g;
      g = h.clip_value < g ? h.clip_value : g;  // in this order each is one instruction, and NaN stays
      g = -h.clip_value > g ? -h.clip_value : g;
    }
    if constexpr (with & variant::l2) g = g + h.weight_decay * p;
    if constexpr (with & variant::decoupled) p = p - lr[i] * h.weight_decay * p;

    if constexpr (with & variant::centered) {
      s = h.rho * s + h.rho_one_minus_rho * ((g - m) * (g - m));
      m = h.rho * m + h.one_minus_rho * g;
    } else {
      s = h.rho * s + h.one_minus_rho * (g * g);
    }

    Real step_size;
    if constexpr (with & variant::options) {
      step_size = lr_inside[i] / (square_root(s + h.eps_inside) + h.eps_outside);
    } else {
      step_size = lr_inside[i] / (square_root(s) + h.eps);
    }

    if constexpr (with & variant::momentum) {
      b = h.momentum * b + step_size * g;
      p = p - lr_outside[i] * (with & variant::nesterov ? step_size * g + h.momentum * b : b);
    } else {
      p = p - step_size * g;
    }

    store(params[i], p);
    means[i] = s;
    if constexpr (with & variant::centered) grad_means[i] = m;
    if constexpr (with & variant::momentum) buffers[i] = b;
  }
}

template <class Param, class Grad, int with>
void update_leaf(const Leaf& leaf, double multiplier, std::size_t begin, std::size_t end) {
  using Real = Compute<Param>;
  const auto at = [begin](auto* array) { return array ? array + begin : nullptr; };
  Param* p = at(static_cast<Param*>(leaf.p));
  const Grad* g = at(static_cast<const Grad*>(leaf.g));
  Real* s = at(static_cast<Real*>(leaf.s));
  Real* m = at(static_cast<Real*>(leaf.m));
  Real* b = at(static_cast<Real*>(leaf.b));
  const Rounded<Real> rounded(*leaf.hyper, leaf.rho_t, multiplier);
  const auto run = [&](auto lr, auto lr_inside, auto lr_outside) {
    update<with>(p, g, s, m, b, lr, lr_inside, lr_outside, rounded, end - begin);
  };
  const bool inside = !(with & variant::momentum) || leaf.hyper->lr_in_momentum;
  if constexpr (with & variant::lr_per_element) {
    const Real* lr = at(static_cast<const Real*>(leaf.lr));
    run(lr, ArrayOrOne<Real>(lr, inside), ArrayOrOne<Real>(lr, !inside));
  } else {
    const Everywhere<Real> lr{static_cast<Real>(leaf.lr_number)}, one{1};
    run(lr, inside ? lr : one, inside ? one : lr);
  }
}

// Sums of squares in double: element i belongs to lane i % 16, and lanes are added in halves.
constexpr std::size_t lanes = 16;

// A single stream is read no faster than it is asked for: without this, looking at gradients that are not in cache
// takes up to a quarter longer (benchmarks/test_targets.py, test_family).
inline void prefetch_ahead([[maybe_unused]] const void* address) {
#ifndef _MSC_VER
  constexpr uintptr_t distance = 16 * 1024;
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(address) + distance));
#endif
}

// In double the square of a float is exact, so that rounding once or twice makes no difference; where the processor has
// FMA, it halves the time. So it is for halves, but GCC 12 then leaves float16 scalar.
template <class Stored>
inline double add_square(double sum, Stored g) {
  const double x = load(g);
#if !defined(_MSC_VER) && (defined(__AVX512F__) || defined(__FMA__) || defined(__ARM_FEATURE_FMA))
  if constexpr (sizeof(Stored) == sizeof(float)) return __builtin_fma(x, x, sum);
#endif
  return sum + x * x;
}

template <class Stored>
void add_rows(double* __restrict sums, const Stored* __restrict rows, std::size_t size) {
  for (std::size_t i = 0; i < size; i += lanes) {
    prefetch_ahead(rows + i);
    for (std::size_t lane = 0; lane < lanes; ++lane) sums[lane] = add_square(sums[lane], rows[i + lane]);
  }
}

template <class Stored>
double sum_of_squares(const Leaf& leaf, std::size_t begin, std::size_t end) {
  const Stored* g = static_cast<const Stored*>(leaf.g) + begin;
  const std::size_t size = end - begin;
  const std::size_t whole = size / lanes * lanes;
  Stored rest[lanes];
  for (std::size_t lane = 0; lane < lanes; ++lane) rest[lane] = whole + lane < size ? g[whole + lane] : Stored{};

  double sums[lanes] = {};
  add_rows(sums, g, whole);
  add_rows(sums, rest, lanes);
  for (std::size_t half = lanes / 2; half > 0; half /= 2)
    for (std::size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

template <class Stored>
double largest(const Leaf& leaf, std::size_t begin, std::size_t end) {
  using Real = Compute<Stored>;
  const Stored* g = static_cast<const Stored*>(leaf.g);
  auto most = magnitude(Real{0});
  for (std::size_t i = begin; i < end; ++i) {
    const auto bits = magnitude(load(g[i]));
    most = bits > most ? bits : most;
  }
  return static_cast<double>(__builtin_bit_cast(Real, most));
}

// The kernels of parameters and gradients of these types.
template <class Param, class Grad, int with = 0>
constexpr void fill(Kernel* row) {
  if constexpr (variant::exists(with)) row[with] = update_leaf<Param, Grad, with>;
  if constexpr (with + 1 < variant::count) fill<Param, Grad, with + 1>(row);
}

template <class Grad>
constexpr void reduce(KernelTable& table, int element) {
  table.sum_of_squares[element] = sum_of_squares<Grad>;
  table.largest[element] = largest<Grad>;
}

constexpr KernelTable make_table() {
  KernelTable table{.name = RMSPROP_FAST_ISA_NAME,
                    .update = {},
                    .sum_of_squares = {},
                    .largest = {},
                    .move_streams = move_streams,
                    .divide_and_root = divide_and_root};
  constexpr int f32 = static_cast<int>(Element::float32), f64 = static_cast<int>(Element::float64);
  constexpr int f16 = static_cast<int>(Element::float16), bf16 = static_cast<int>(Element::bfloat16);
  fill<float, float>(table.update[f32][f32]);
  fill<float, Float16>(table.update[f32][f16]);
  fill<float, Bfloat16>(table.update[f32][bf16]);
  fill<double, double>(table.update[f64][f64]);
  fill<Float16, Float16>(table.update[f16][f16]);
  fill<Bfloat16, Bfloat16>(table.update[bf16][bf16]);
  reduce<float>(table, f32);
  reduce<double>(table, f64);
  reduce<Float16>(table, f16);
  reduce<Bfloat16>(table, bf16);
  return table;
}

}  // namespace

constexpr KernelTable kernels = make_table();

}  // namespace rmsprop_fast::RMSPROP_FAST_ISA
