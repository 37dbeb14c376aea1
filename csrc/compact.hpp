// Numbers in fewer bytes than they are computed with, and the way from there to float32 and back; for kernel.cpp alone.
// docs/compact.md explains the formats.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "half.hpp"
#include "kernel.hpp"

namespace rmsprop_fast::RMSPROP_FAST_ISA {
namespace {

// The words by which the elements of an array are rounded stochastically are a Weyl sequence: 2**32 over the golden
// ratio apart, which spreads them evenly. Where it begins differs from step to step and from array to array.
constexpr uint32_t weyl = 0x9E3779B9u;
enum RoundedArray : uint32_t { of_p, of_s, of_m, of_b };

inline uint32_t word_of(const Leaf& leaf, RoundedArray array, size_t element) {
  const double steps = leaf.steps < 0x1p63 ? leaf.steps : 0;  // of which any tensor may be the count
  uint32_t word = static_cast<uint32_t>(static_cast<uint64_t>(steps)) * 4 + array;
  word = (word ^ word >> 16) * 0x85EBCA6Bu;  // the finalizer of MurmurHash3
  word = (word ^ word >> 13) * 0xC2B2AE35u;
  return (word ^ word >> 16) + static_cast<uint32_t>(element) * weyl;
}

// Enumerations, as GCC takes an array of uint8_t for bytes of any other, and checks at run time whether they overlap.
enum class Low8 : uint8_t {};
enum class Low16 : uint16_t {};
enum class Code : uint8_t {};

inline float load(float x) { return x; }
template <Rounding>
inline void store(float& to, float x, uint32_t) {
  to = x;
}

// Parameters, alone or with the bits that are kept below them.
struct Alone {};
template <class Params>
inline float load(const Params* params, const Alone*, size_t i) {
  return load(params[i]);
}
inline float load(const Bfloat16* params, const Low8* low, size_t i) {
  return float_of(params[i].bits << 16 | static_cast<int32_t>(low[i]) << 8);
}
inline float load(const Bfloat16* params, const Low16* low, size_t i) {
  return float_of(params[i].bits << 16 | static_cast<int32_t>(low[i]));
}

template <Rounding rounding, class Params>
inline void store(Params* params, Alone*, size_t i, float x, uint32_t word) {
  store<rounding>(params[i], x, word);
}
template <Rounding rounding>
inline void store(Bfloat16* params, Low8* low, size_t i, float x, uint32_t word) {
  const uint32_t bits = rounded_bits<rounding, 8>(x, word);
  params[i].bits = static_cast<uint16_t>(bits >> 16);
  low[i] = static_cast<Low8>(static_cast<uint8_t>(bits >> 8));
}
template <Rounding rounding>
inline void store(Bfloat16* params, Low16* low, size_t i, float x, uint32_t) {
  const uint32_t bits = x != x ? 0x7fc00000u : __builtin_bit_cast(uint32_t, x);
  params[i].bits = static_cast<uint16_t>(bits >> 16);
  low[i] = static_cast<Low16>(static_cast<uint16_t>(bits));
}

// Means as codes of 8 bits: |x| in units of the block, plus the least number that has a code, as a float with 3 bits of
// fraction; of its bits, 8 are the code, or 7 below the sign. So codes are even steps near 0, and steps of an eighth of
// an octave from there on. The unit of a block is a power of two; what is largest in it is up to one unit. What is not
// finite gets the highest code.
template <bool is_signed>
struct Codes {
  static constexpr int32_t highest = is_signed ? 0x7f : 0xff;
  static constexpr int32_t least = (is_signed ? 127 - 15 : 127 - 31) << 23;
  static_assert((least >> 20 & highest) == 0, "codes count from `least` on");

  static float decode(Code code, float unit) {
    const auto bits = static_cast<int32_t>(code);
    const float x = (float_of(((bits & highest) << 20) + least) - float_of(least)) * unit;
    if constexpr (is_signed) return float_of(bits_of(x) | (bits & 0x80) << 24);
    return x;
  }

  // Of numbers up to one unit, or a rounding error above it, without a sign.
  template <Rounding rounding>
  static uint32_t magnitude(float units, uint32_t word) {
    const auto bits = __builtin_bit_cast(uint32_t, units + float_of(least));
    return (bits + rounding_bits<rounding, 20>(bits, word)) >> 20;
  }

  template <Rounding rounding>
  static Code encode(float x, float one_over_unit, uint32_t word) {
    constexpr float most = float_of((highest << 20) + least) - float_of(least);
    const float units = float_of(bits_of(x) & INT32_MAX) * one_over_unit;
    const uint32_t code = magnitude<rounding>(units < most ? units : most, word);  // in this order NaN becomes `most`
    const int32_t sign = is_signed && x == x ? bits_of(x) >> 24 & 0x80 : 0;  // which sign NaN has is up to the compiler
    return static_cast<Code>(static_cast<int32_t>(code & highest) | sign);
  }
};

// The blocks of a leaf from the one that begins at an element on.
struct Block {
  Block(const Leaf& leaf, size_t element) : width(leaf.blocks.width), column(width > 0 ? element % width : 0) {
    number = width > 0 ? element / width * ((width + code_block - 1) / code_block) + column / code_block : 0;
  }

  // How many elements it has, of those that are left.
  size_t size(size_t left) const {
    const size_t most = width - column < code_block ? width - column : code_block;
    return left < most ? left : most;
  }
  void go_on(size_t size) {
    column = column + size < width ? column + size : 0;
    ++number;
  }

  size_t width, column, number = 0;
};

// The exponent of a block is that of a float: the unit's, and with the sign changed that of 1 / unit.
inline float unit_of(int32_t exponent) { return float_of(exponent << 23); }
inline float one_over_unit_of(int32_t exponent) { return float_of((254 - exponent) << 23); }

// If these are the bits of the largest finite number of a block.
inline int32_t exponent_for(int32_t largest, int32_t raised = 0) {
  const int32_t exponent = ((largest - 1) >> 23) + 1 + raised;
  return exponent < 1 ? 1 : exponent > 253 ? 253 : exponent;
}

constexpr int32_t infinite = 0xff << 23;

inline int32_t largest_finite(const float* numbers, size_t size) {
  int32_t largest = 0;
  for (size_t i = 0; i < size; ++i) {
    const int32_t bits = bits_of(numbers[i]) & INT32_MAX, finite = bits < infinite ? bits : 0;
    largest = finite > largest ? finite : largest;
  }
  return largest;
}

inline uint8_t* exponents_of(const Leaf& leaf, void* codes) { return static_cast<uint8_t*>(codes) + leaf.blocks.size; }

template <bool is_signed>
void decode(const Leaf& leaf, const void* array, size_t begin, size_t size, float* __restrict tile) {
  const Code* const codes = static_cast<const Code*>(array) + begin;
  const float unit = unit_of(exponents_of(leaf, const_cast<void*>(array))[Block(leaf, begin).number]);
  for (size_t i = 0; i < size; ++i) tile[i] = Codes<is_signed>::decode(codes[i], unit);
}

template <bool is_signed, Rounding rounding>
void encode(const Leaf& leaf, const float* __restrict tile, void* array, size_t begin, size_t size, uint32_t word,
            int32_t raised = 0) {
  Code* const codes = static_cast<Code*>(array) + begin;
  const int32_t exponent = exponent_for(largest_finite(tile, size), raised);
  exponents_of(leaf, array)[Block(leaf, begin).number] = static_cast<uint8_t>(exponent);
  const float one_over_unit = one_over_unit_of(exponent);
  for (size_t i = 0; i < size; ++i, word += weyl)
    codes[i] = Codes<is_signed>::template encode<rounding>(tile[i], one_over_unit, word);
}

}  // namespace
}  // namespace rmsprop_fast::RMSPROP_FAST_ISA
