// float16 and bfloat16 as they are stored, and the way from there to float32 and back, for kernel.cpp alone.
//
// Arithmetic on the bits vectorises for every instruction set, where GCC 12 converts _Float16 one by one.
#pragma once

#include <stdint.h>

namespace rmsprop_fast::RMSPROP_FAST_ISA {
namespace {

struct Float16 {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};

inline uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
inline float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

inline float load(Bfloat16 x) { return float_of(uint32_t{x.bits} << 16); }
inline float load(Float16 x) {
  constexpr uint32_t rebias = (127 - 15) << 23;  // from the exponent of float16 to that of float32
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13;
  const uint32_t normal = magnitude + rebias;
  const uint32_t infinite_or_nan = normal + rebias;
  const uint32_t subnormal = bits_of(float_of(normal + (1u << 23)) - float_of(rebias + (1u << 23)));
  const uint32_t bits = magnitude < 0x400u << 13 ? subnormal : magnitude < 0x7c00u << 13 ? normal : infinite_or_nan;
  return float_of((bits & 0x7fffffffu) | (x.bits & 0x8000u) << 16);  // the difference is -0 when rounding down
}

// To the nearest, and of two the even one, whatever the rounding mode of the arithmetic is.
inline void store(Bfloat16& to, float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  to.bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
inline void store(Float16& to, float x) {
  constexpr uint32_t rebias = (127 - 15) << 23;
  constexpr uint32_t least_normal = (127 - 14) << 23;
  constexpr uint32_t too_large = (127 + 16) << 23;
  const uint32_t bits = bits_of(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t rounded = (magnitude + 0xfffu + (magnitude >> 13 & 1u));
  const uint32_t normal = (rounded - rebias) >> 13;
  // The sum is a multiple of 2**-24, one of the two around x; what it lacks is exact, and says whether it is the
  // nearer.
  const float sum = float_of(magnitude) + 0.5f;
  const float lacks = float_of(magnitude) - (sum - 0.5f);
  const uint32_t floor_or_ceil = bits_of(sum) - bits_of(0.5f);
  const float tie = floor_or_ceil & 1u ? 0x1p-25f : 0x1.000002p-25f;  // an odd one leaves at half a step
  const uint32_t subnormal = floor_or_ceil + (lacks >= tie ? 1u : 0u) - (lacks <= -tie ? 1u : 0u);
  const uint32_t half = magnitude > 0x7f800000u    ? 0x7e00u
                        : rounded >= too_large     ? 0x7c00u
                        : magnitude < least_normal ? subnormal
                                                   : normal;
  to.bits = static_cast<uint16_t>(half | (bits >> 16 & 0x8000u));
}

}  // namespace
}  // namespace rmsprop_fast::RMSPROP_FAST_ISA
