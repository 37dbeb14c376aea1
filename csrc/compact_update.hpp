// The update where parameters or means are compact; for kernel.cpp alone.
//
// Without options, a loop reads, updates and writes each number in its own format: that hides all conversions behind
// the division and the root. Everything else passes through tiles, which any kernel updates.
#pragma once

#include "compact.hpp"
#include "tile.hpp"
#include "update.hpp"

namespace rmsprop_fast::RMSPROP_FAST_ISA {
namespace {

// A parameter, whose mean is that of this step already.
template <Rounding rounding, class Params, class Low>
inline void update_stored(Params* params, Low* low, size_t i, float g, float s, float lr, const Rounded<float>& h,
                          uint32_t word) {
  float p = load(params, low, i), none = 0;
  update_parameter<0>(p, g, s, none, lr, lr, lr, h);
  store<rounding>(params, low, i, p, word);
}

// Not inlined, as GCC 12 would forget that the arrays do not overlap.
template <Rounding rounding, class Params, class Low, class Grads, class Means>
[[gnu::noinline]] void update_all(Params* __restrict params, Low* __restrict low, const Grads* __restrict grads,
                                  Means* __restrict means, float lr, const Rounded<float> h, uint32_t word,
                                  uint32_t mean_word, size_t size) {
  for (size_t i = 0; i < size; ++i, word += weyl, mean_word += weyl) {
    const float g = load(grads[i]);
    float s = load(means[i]), none = 0;
    update_means<0>(g, s, none, h);
    update_stored<rounding>(params, low, i, g, s, lr, h, word);
    store<rounding>(means[i], s, mean_word);
  }
}

// Finishes a block, of which the means are those of this step already; and works out the means of the next one, as what
// is largest among them has to be known before the first is encoded. In one loop, one block is divided while the other
// is decoded. Halves of the next gradient are kept `widened`. Returns the bits of what is largest; all negative numbers
// count as larger than positive ones.
template <Rounding rounding, class Params, class Low, class Grads>
[[gnu::noinline]] uint32_t update_block(Params* __restrict params, Low* __restrict low, Code* __restrict codes,
                                        const float* __restrict grads, const float* __restrict means,
                                        const Grads* __restrict next_grads, const Code* __restrict next_codes,
                                        float* __restrict widened, float* __restrict next_means, size_t size,
                                        size_t next_size, float one_over_unit, float next_unit, uint32_t word,
                                        uint32_t mean_word, float lr, const Rounded<float>& rounded) {
  const Rounded<float> h = rounded;
  uint32_t largest = 0;
  const auto finish = [&](size_t i) {
    update_stored<rounding>(params, low, i, grads[i], means[i], lr, h, word);
    codes[i] = static_cast<Code>(Codes<false>::magnitude<rounding>(means[i] * one_over_unit, mean_word));
    word += weyl;
    mean_word += weyl;
  };
  const auto begin_next = [&](size_t i) {
    const float g = load(next_grads[i]);
    float s = Codes<false>::decode(next_codes[i], next_unit), none = 0;
    update_means<0>(g, s, none, h);
    next_means[i] = s;
    if constexpr (sizeof(Grads) < sizeof(float)) widened[i] = g;
    const auto bits = static_cast<uint32_t>(bits_of(s));
    largest = bits > largest ? bits : largest;
  };
  if (size == code_block && next_size == code_block) {
    for (size_t i = 0; i < code_block; ++i) {
      finish(i);
      begin_next(i);
    }
  } else {
    for (size_t i = 0; i < size; ++i) finish(i);
    for (size_t i = 0; i < next_size; ++i) begin_next(i);
  }
  return largest;
}

template <Rounding rounding, class Params, class Low, class Grads>
void update_blocks(const Leaf& leaf, const Rounded<float>& rounded, size_t begin, size_t end) {
  constexpr uint32_t too_large = 253 << 23;  // for a unit; or not finite: then the block is encoded once more
  const auto at = [](auto* array, size_t i) { return array ? array + i : nullptr; };
  const auto grads_at = [&](size_t i) { return static_cast<const Grads*>(leaf.g) + (leaf.g_begin + i); };
  const uint32_t word = word_of(leaf, of_p, 0), mean_word = word_of(leaf, of_s, 0);
  Code* const codes = static_cast<Code*>(leaf.s);
  uint8_t* const exponents = exponents_of(leaf, leaf.s);
  alignas(64) float means[2][code_block], widened[2][code_block];
  Block block(leaf, begin);
  size_t before = begin;  // where the block begins that is to be finished
  float one_over_unit = 0;
  for (size_t turn = 0; before < begin || begin < end; turn = 1 - turn) {
    // Of no elements, before the first block and after the last one.
    const size_t size = begin - before, next_size = block.size(end - begin), number = block.number;
    const float* grads = widened[1 - turn];
    if constexpr (sizeof(Grads) == sizeof(float)) grads = grads_at(before);
    const uint32_t first = static_cast<uint32_t>(before) * weyl;
    const uint32_t largest = update_block<rounding>(
        static_cast<Params*>(leaf.p) + before, at(static_cast<Low*>(leaf.low), before), codes + before, grads,
        means[1 - turn], grads_at(begin), codes + begin, widened[turn], means[turn], size, next_size, one_over_unit,
        unit_of(next_size > 0 ? exponents[number] : 1), word + first, mean_word + first,
        static_cast<float>(leaf.lr_number), rounded);
    if (size > 0 && one_over_unit == 0)
      encode<false, rounding>(leaf, means[1 - turn], leaf.s, before, size, mean_word + first);
    const int32_t exponent = exponent_for(static_cast<int32_t>(largest));
    if (next_size > 0) exponents[number] = static_cast<uint8_t>(exponent);
    one_over_unit = largest < too_large ? one_over_unit_of(exponent) : 0;
    block.go_on(next_size);
    before = begin;
    begin += next_size;
  }
}

template <Rounding rounding, class Params, class Low, class Grads>
void update_formats(const Leaf& leaf, const Rounded<float>& rounded, size_t begin, size_t end) {
  const auto with_means = [&](auto* means) {
    update_all<rounding>(static_cast<Params*>(leaf.p) + begin, leaf.low ? static_cast<Low*>(leaf.low) + begin : nullptr,
                         static_cast<const Grads*>(leaf.g) + (leaf.g_begin + begin), means + begin,
                         static_cast<float>(leaf.lr_number), rounded, word_of(leaf, of_p, begin),
                         word_of(leaf, of_s, begin), end - begin);
  };
  if (leaf.hyper->state_dtype == StateDtype::uint8)
    update_blocks<rounding, Params, Low, Grads>(leaf, rounded, begin, end);
  else if (leaf.hyper->state_dtype == StateDtype::bfloat16)
    with_means(static_cast<Bfloat16*>(leaf.s));
  else if constexpr (sizeof(Params) < sizeof(float))
    with_means(static_cast<float*>(leaf.s));
}

template <Rounding rounding>
void update_formats(const Leaf& leaf, const Rounded<float>& rounded, size_t begin, size_t end) {
  if (leaf.element == Element::float32)
    update_formats<rounding, float, Alone, float>(leaf, rounded, begin, end);
  else if (!leaf.low)
    update_formats<rounding, Bfloat16, Alone, Bfloat16>(leaf, rounded, begin, end);
  else if (leaf.hyper->low_bits == 8)
    update_formats<rounding, Bfloat16, Low8, Bfloat16>(leaf, rounded, begin, end);
  else
    update_formats<rounding, Bfloat16, Low16, Bfloat16>(leaf, rounded, begin, end);
}

// Are parameters rounded to fewer bits stochastically, or are there more behind them?
inline bool has_compact_parameters(const Leaf& leaf) {
  return leaf.low || (leaf.element != Element::float32 && leaf.hyper->rounding == Rounding::stochastic);
}

// Without options, and with gradients of the parameters' type, float32 or bfloat16. Else it changes nothing.
inline bool update_in_place(const Leaf& leaf, const Rounded<float>& rounded, size_t begin, size_t end) {
  if (leaf.element != leaf.grad_element || leaf.element == Element::float16 || !leaf.g || is_sum(leaf)) return false;
  if (leaf.hyper->rounding == Rounding::stochastic)
    update_formats<Rounding::stochastic>(leaf, rounded, begin, end);
  else
    update_formats<Rounding::nearest>(leaf, rounded, begin, end);
  return true;
}

template <class Params, class Low>
void load_all(const Leaf& leaf, size_t begin, size_t size, float* __restrict tile) {
  const Params* const params = static_cast<const Params*>(leaf.p) + begin;
  const Low* const low = leaf.low ? static_cast<const Low*>(leaf.low) + begin : nullptr;
  for (size_t i = 0; i < size; ++i) tile[i] = load(params, low, i);
}

void load_parameters(const Leaf& leaf, size_t begin, size_t size, float* tile) {
  if (leaf.element == Element::float16)
    widen<Float16>(leaf.p, begin, size, tile);
  else if (!leaf.low)
    widen<Bfloat16>(leaf.p, begin, size, tile);
  else if (leaf.hyper->low_bits == 8)
    load_all<Bfloat16, Low8>(leaf, begin, size, tile);
  else
    load_all<Bfloat16, Low16>(leaf, begin, size, tile);
}

template <Rounding rounding, class Params, class Low>
void store_all(const Leaf& leaf, size_t begin, size_t size, const float* __restrict tile) {
  Params* const params = static_cast<Params*>(leaf.p) + begin;
  Low* const low = leaf.low ? static_cast<Low*>(leaf.low) + begin : nullptr;
  uint32_t word = word_of(leaf, of_p, begin);
  for (size_t i = 0; i < size; ++i, word += weyl) store<rounding>(params, low, i, tile[i], word);
}

void store_parameters(const Leaf& leaf, size_t begin, size_t size, const float* tile) {
  const bool is_stochastic = leaf.hyper->rounding == Rounding::stochastic;
  if (leaf.element == Element::float16)
    store_all<Rounding::stochastic, Float16, Alone>(leaf, begin, size, tile);
  else if (!leaf.low)
    store_all<Rounding::stochastic, Bfloat16, Alone>(leaf, begin, size, tile);
  else if (leaf.hyper->low_bits == 16)
    store_all<Rounding::nearest, Bfloat16, Low16>(leaf, begin, size, tile);
  else if (is_stochastic)
    store_all<Rounding::stochastic, Bfloat16, Low8>(leaf, begin, size, tile);
  else
    store_all<Rounding::nearest, Bfloat16, Low8>(leaf, begin, size, tile);
}

// The means of a leaf that may be compact: the member, and what is to be known of it.
struct Mean {
  void* Leaf::* member;
  bool is_signed;
  RoundedArray array;
};
constexpr Mean means[] = {{&Leaf::s, false, of_s}, {&Leaf::m, true, of_m}, {&Leaf::b, true, of_b}};

void load_means(const Leaf& leaf, const Mean& mean, size_t begin, size_t size, float* tile) {
  if (leaf.hyper->state_dtype == StateDtype::bfloat16)
    widen<Bfloat16>(leaf.*mean.member, begin, size, tile);
  else if (mean.is_signed)
    decode<true>(leaf, leaf.*mean.member, begin, size, tile);
  else
    decode<false>(leaf, leaf.*mean.member, begin, size, tile);
}

template <Rounding rounding>
void store_means(const Leaf& leaf, const Mean& mean, size_t begin, size_t size, const float* tile) {
  uint32_t word = word_of(leaf, mean.array, begin);
  void* const array = leaf.*mean.member;
  if (leaf.hyper->state_dtype == StateDtype::bfloat16) {
    Bfloat16* const to = static_cast<Bfloat16*>(array) + begin;
    for (size_t i = 0; i < size; ++i, word += weyl) store<rounding>(to[i], tile[i], word);
  } else if (mean.is_signed) {
    encode<true, rounding>(leaf, tile, array, begin, size, word);
  } else {
    encode<false, rounding>(leaf, tile, array, begin, size, word);
  }
}

// Each tile is a leaf of its own for the kernel: what is compact is float32 in it.
void update_in_tiles(const Leaf& leaf, const Factors& factors, size_t begin, size_t end, Kernel kernel) {
  const bool are_compact = leaf.hyper->state_dtype != StateDtype::compute_type, tiles_p = has_compact_parameters(leaf);
  alignas(64) float p_tile[code_block], mean_tiles[3][code_block];
  Block block(leaf, begin);
  for (size_t size; begin < end; begin += size) {
    size = block.width > 0 ? block.size(end - begin) : end - begin < code_block ? end - begin : code_block;
    Leaf tile = leaf;
    tile.size = size;
    tile.g_begin = leaf.g_begin + begin;
    if (leaf.lr) tile.lr = static_cast<const float*>(leaf.lr) + begin;
    tile.p = static_cast<char*>(leaf.p) + begin * element_types[static_cast<int>(leaf.element)].size;
    if (tiles_p) {
      load_parameters(leaf, begin, size, p_tile);
      tile.p = p_tile;
      tile.element = Element::float32;
    }
    for (const Mean& mean : means) {
      if (!(leaf.*mean.member)) continue;
      float* const mean_tile = mean_tiles[&mean - means];
      if (are_compact) load_means(leaf, mean, begin, size, mean_tile);
      tile.*mean.member = are_compact ? mean_tile : static_cast<float*>(leaf.*mean.member) + begin;
    }
    kernel(tile, factors, 0, size);
    if (tiles_p) store_parameters(leaf, begin, size, p_tile);
    for (const Mean& mean : means) {
      if (!are_compact || !(leaf.*mean.member)) continue;
      if (leaf.hyper->rounding == Rounding::stochastic)
        store_means<Rounding::stochastic>(leaf, mean, begin, size, mean_tiles[&mean - means]);
      else
        store_means<Rounding::nearest>(leaf, mean, begin, size, mean_tiles[&mean - means]);
    }
    block.go_on(size);
  }
}

const Mean& mean_of(void* Leaf::* member) {
  size_t i = 0;
  while (means[i].member != member) ++i;
  return means[i];
}

void unpack(const Leaf& leaf, void* Leaf::* member, float* numbers) {
  if (leaf.hyper->state_dtype == StateDtype::bfloat16) return widen<Bfloat16>(leaf.*member, 0, leaf.size, numbers);
  Block block(leaf, 0);
  for (size_t begin = 0, size; begin < leaf.size; begin += size) {
    size = block.size(leaf.size - begin);
    load_means(leaf, mean_of(member), begin, size, numbers + begin);
    block.go_on(size);
  }
}

// What was decoded from codes gets these codes again, although its largest number would now have another unit: if it
// was rounded down to a power of two, or was not finite.
void pack_block(const Leaf& leaf, const Mean& mean, size_t begin, size_t size, const float* numbers) {
  float decoded[code_block];
  constexpr int32_t attempts[] = {0, 1, -1, 0};
  for (const int32_t raised : attempts) {
    if (mean.is_signed)
      encode<true, Rounding::nearest>(leaf, numbers, leaf.*mean.member, begin, size, 0, raised);
    else
      encode<false, Rounding::nearest>(leaf, numbers, leaf.*mean.member, begin, size, 0, raised);
    load_means(leaf, mean, begin, size, decoded);
    size_t same = 0;
    for (size_t i = 0; i < size; ++i) same += decoded[i] == numbers[i];
    if (same == size) return;
  }
}

void pack(const Leaf& leaf, void* Leaf::* member, const float* numbers) {
  const Mean& mean = mean_of(member);
  if (leaf.hyper->state_dtype == StateDtype::bfloat16) return narrow<Bfloat16>(numbers, leaf.*member, 0, leaf.size);
  Block block(leaf, 0);
  for (size_t begin = 0, size; begin < leaf.size; begin += size) {
    size = block.size(leaf.size - begin);
    pack_block(leaf, mean, begin, size, numbers + begin);
    block.go_on(size);
  }
}

}  // namespace
}  // namespace rmsprop_fast::RMSPROP_FAST_ISA
