// What bounds an update of float32, for kernel.cpp alone and benchmarks to ask for: the way through memory, and the
// divisions and roots.
#pragma once

#include <math.h>

#include <cstddef>

#include "kernel.hpp"

namespace rmsprop_fast::RMSPROP_FAST_ISA {
namespace {

// The streams of an update, with hardly any arithmetic: numbers stay in their range however often it runs.
inline void move(float* __restrict params, const float* __restrict grads, float* __restrict means, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    const float p = params[i], g = grads[i], s = means[i];
    params[i] = p < g ? p : g;
    means[i] = s > g ? s : g;
  }
}

void move_streams(const Leaf& leaf, const Factors& factors, std::size_t begin, std::size_t end) {
  for (double pass = 0; pass < factors.multiplier; ++pass)
    move(static_cast<float*>(leaf.p) + begin, static_cast<const float*>(leaf.g) + leaf.g_begin + begin,
         static_cast<float*>(leaf.s) + begin, end - begin);
}

// As many divisions and roots as elements, on numbers that never leave the processor.
void divide_and_root(const Leaf&, const Factors& factors, std::size_t begin, std::size_t end) {
  constexpr std::size_t lanes = 128;  // several vectors, as one would wait for its own last result
  float numbers[lanes];
  for (std::size_t lane = 0; lane < lanes; ++lane) numbers[lane] = 1 + static_cast<float>(lane);
  const double count = factors.multiplier * static_cast<double>(end - begin);
  for (double done = 0; done < count; done += lanes)
    for (std::size_t lane = 0; lane < lanes; ++lane) numbers[lane] = 0.01f / (sqrtf(numbers[lane]) + 1e-8f);
  for (const float number : numbers) {
    [[maybe_unused]] const volatile float used = number;  // or there would be nothing to compute
  }
}

}  // namespace
}  // namespace rmsprop_fast::RMSPROP_FAST_ISA
