// float16 and bfloat16 as they are stored, and the way from there to float32 and back, for kernel.cpp alone.
//
// Arithmetic on the bits vectorises for every instruction set, where GCC 12 converts _Float16 one by one.
#pragma once

#include <stdint.h>

#include "hyper.hpp"

namespace rmsprop_fast::RMSPROP_FAST_ISA {
namespace {

struct Float16 {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};

// Signed, as the order of unsigned integers takes more instructions before AVX-512.
inline int32_t bits_of(float x) { return __builtin_bit_cast(int32_t, x); }
constexpr float float_of(int32_t bits) { return __builtin_bit_cast(float, bits); }

inline float load(Bfloat16 x) { return float_of(x.bits << 16); }
inline float load(Float16 x) {
  constexpr int32_t rebias = (127 - 15) << 23;  // from the exponent of float16 to that of float32
  constexpr int32_t one = 1 << 23;              // in the exponent
  const int32_t magnitude = x.bits << 13 & 0x7fff << 13;
  const int32_t normal = magnitude + rebias;
  // A subnormal number has no leading 1. One more in the exponent adds it, as 2**-14, which is subtracted again. A
  // normal number becomes larger by that. So the smaller one is right.
  const int32_t subnormal = bits_of(float_of(normal + one) - float_of(rebias + one));
  const int32_t finite = normal < subnormal ? normal : subnormal;
  const int32_t bits = finite + (magnitude >= 0x7c00 << 13 ? rebias : 0);
  return float_of(bits ^ ((bits ^ x.bits << 16) & INT32_MIN));  // with the sign of x, as 0 may have become -0
}

// Numbers are rounded to the nearest, and of two to the even one, whatever the rounding mode of the arithmetic is. Or
// stochastically, by a word of 32 bits: what is cut off and the upper bits of the word are added, and a carry rounds
// up; in float16, what exceeds word / 2**32 of a unit in the last place does.

// What is to be added to the bits of a number before the lowest `cut` are cut off.
template <Rounding rounding, int cut>
inline uint32_t rounding_bits(uint32_t bits, [[maybe_unused]] uint32_t word) {
  if constexpr (rounding == Rounding::stochastic) return word >> (32 - cut);
  return (1u << (cut - 1)) - 1 + (bits >> cut & 1u);
}

// The bits of a number that is rounded to all but the lowest `cut`. What these are does not matter.
template <Rounding rounding, int cut>
inline uint32_t rounded_bits(float x, uint32_t word) {
  const auto bits = __builtin_bit_cast(uint32_t, x);
  return x != x ? 0x7fc00000u : bits + rounding_bits<rounding, cut>(bits, word);
}

template <Rounding rounding = Rounding::nearest>
inline void store(Bfloat16& to, float x, uint32_t word = 0) {
  to.bits = static_cast<uint16_t>(rounded_bits<rounding, 16>(x, word) >> 16);
}
template <Rounding rounding = Rounding::nearest>
inline void store(Float16& to, float x, [[maybe_unused]] uint32_t word = 0) {
  constexpr int32_t least_normal = (127 - 14) << 23, infinite = (127 + 16) << 23;  // 2**-14 and 2**16
  int32_t magnitude = bits_of(x) & INT32_MAX;
  magnitude = magnitude < infinite ? magnitude : infinite;  // NaN, too
  // In units of the last place: from 1024 to 2047, but fewer below 2**-14. No operation here is rounded.
  const int32_t power = (magnitude > least_normal ? magnitude : least_normal) & 0xff << 23;
  const uint32_t scale = ((127u + 10 + 127) << 23) - static_cast<uint32_t>(power);
  const float units = float_of(magnitude) * __builtin_bit_cast(float, scale);
  const int32_t below = static_cast<int32_t>(units);
  const float rest = units - static_cast<float>(below);
  bool is_up;
  if constexpr (rounding == Rounding::stochastic)
    is_up = rest > static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f;
  else
    is_up = rest >= float_of(bits_of(0.5f) + 1 - (below & 1));  // of ties, those with an odd `below` go up
  const int32_t half = ((power - least_normal) >> 13) + below + is_up + (x != x ? 0x200 : 0);
  to.bits = static_cast<uint16_t>(half | (bits_of(x) >> 16 & 0x8000));
}

}  // namespace
}  // namespace rmsprop_fast::RMSPROP_FAST_ISA
