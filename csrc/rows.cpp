#include "rows.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace rmsprop_fast {
namespace {

// Elements of the leaf from `first` on, with the gradient from another one on.
void update_part(Leaf leaf, const Factors& factors, Kernel update, std::size_t first, std::size_t first_of_gradient,
                 std::size_t size) {
  leaf.g_begin = first_of_gradient - first;
  update(leaf, factors, first, first + size);
}

// Of an array of so many bytes for each element.
void prefetch([[maybe_unused]] const void* array, [[maybe_unused]] std::size_t first, [[maybe_unused]] std::size_t size,
              [[maybe_unused]] std::size_t bytes) {
#ifndef _MSC_VER
  const char* const begin = static_cast<const char*>(array) + first * bytes;
  for (std::size_t at = 0; array && at < size * bytes; at += 64) __builtin_prefetch(begin + at, 1);
  asm volatile("");  // or GCC 12 takes this for a function that does nothing, and leaves out its calls
#endif
}

// Rows lie anywhere in memory, and the processor does not guess where the next ones are.
void prefetch_row(const Leaf& leaf, std::size_t row, std::size_t width) {
  constexpr std::size_t most = 1024;  // elements; the processor finds its way through longer rows
  const std::size_t first = row * width, size = std::min(width, most), kept = bytes_of_mean(leaf);
  prefetch(leaf.p, first, size, size_of(leaf.element));
  if (leaf.hyper->rowwise)
    prefetch(leaf.s, row, 1, kept);
  else
    prefetch(leaf.s, first, size, kept);
  prefetch(leaf.m, first, size, kept);
  prefetch(leaf.b, first, size, kept);
  prefetch(leaf.low, first, size, static_cast<std::size_t>(leaf.hyper->low_bits) / 8);
}

void decay(const Leaf& leaf, std::size_t row, Scale scale, std::int64_t now) {
  std::int64_t& last = leaf.touched->last[row];
  const std::int64_t missed = leaf.touched->steps - last;
  last = now;
  const std::size_t size = leaf.hyper->rowwise ? 1 : leaf.touched->width;
  if (missed > 0)
    scale(static_cast<char*>(leaf.s) + row * size * size_of(compute_type(leaf.element)),
          std::pow(leaf.hyper->rho, static_cast<double>(missed)), size);
}

// The rows number `first` to `last` - 1 of the gradient.
void update_touched(const Leaf& leaf, const Factors& factors, Kernel update, Scale scale, std::size_t first,
                    std::size_t last) {
  constexpr std::size_t ahead = 16;  // rows; of 8 to 32 the fastest in a table of 256 MB
  const Touched& touched = *leaf.touched;
  const std::size_t width = touched.width;
  const auto row_at = [&](std::size_t i) { return touched.all ? i : static_cast<std::size_t>(touched.rows[i]); };
  for (std::size_t i = first, next; i < last; i = next) {
    // Rows side by side are one piece.
    for (next = touched.all ? last : i + 1; next < last && row_at(next) == row_at(next - 1) + 1;) ++next;
    if (!touched.all && next + ahead <= last) prefetch_row(leaf, row_at(next + ahead - 1), width);
    if (touched.last)
      for (std::size_t k = i; k < next; ++k) decay(leaf, row_at(k), scale, touched.steps + 1);
    update_part(leaf, factors, update, row_at(i) * width, i * width, (next - i) * width);
  }
}

// The rows number `row` to `end` - 1 of the leaf; those that the gradient does not have, with zeros.
void update_all(const Leaf& leaf, const Factors& factors, Kernel update, std::size_t row, std::size_t end) {
  const Touched& touched = *leaf.touched;
  const std::int64_t* const last = touched.rows + touched.count;
  const std::int64_t* next = std::lower_bound(touched.rows, last, static_cast<std::int64_t>(row));
  while (row < end) {
    const std::size_t next_row = next < last ? std::min(static_cast<std::size_t>(*next), end) : end;
    if (row < next_row) {
      Leaf untouched = leaf;
      untouched.g = nullptr;
      update(untouched, factors, row * touched.width, next_row * touched.width);
    }
    if (next_row == end) return;
    const auto i = static_cast<std::size_t>(next++ - touched.rows);
    update_part(leaf, factors, update, next_row * touched.width, i * touched.width, touched.width);
    row = next_row + 1;
  }
}

}  // namespace

std::int64_t* RowSums::make_room(std::size_t count) {
  given_.resize(count);
  return given_.data();
}

// By the digits of their rows, of 11 bits, the lowest first: that keeps the order in which equal rows came.
void RowSums::sort(std::int64_t highest) {
  constexpr int bits = 11;
  constexpr std::size_t digits = 1 << bits;
  place_bits_ = static_cast<int>(std::bit_width(given_.size()));
  const int end = place_bits_ + static_cast<int>(std::bit_width(static_cast<std::uint64_t>(highest)));
  if (end > 64) throw std::length_error("rows: expected a table and a gradient that fit in memory");
  keys_.resize(given_.size());
  for (std::size_t i = 0; i < given_.size(); ++i) keys_[i] = static_cast<std::uint64_t>(given_[i]) << place_bits_ | i;
  if (std::is_sorted(given_.begin(), given_.end())) return;
  other_.resize(keys_.size());
  for (int shift = place_bits_; shift < end; shift += bits) {
    const auto digit = [shift](std::uint64_t key) { return static_cast<std::size_t>(key >> shift) % digits; };
    std::array<std::size_t, digits + 1> first = {};
    for (const std::uint64_t key : keys_) ++first[digit(key) + 1];
    for (std::size_t i = 1; i < digits; ++i) first[i] += first[i - 1];
    for (const std::uint64_t key : keys_) other_[first[digit(key)]++] = key;
    keys_.swap(other_);
  }
}

void RowSums::arrange(std::size_t width, std::int64_t highest, Touched& touched) {
  sort(highest);
  const std::size_t count = keys_.size();
  rows_.resize(count);
  places_.resize(count);
  first_.resize(count + 1);
  std::size_t different = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto row = static_cast<std::int64_t>(keys_[i] >> place_bits_);
    places_[i] = static_cast<std::size_t>(keys_[i] & ((std::uint64_t{1} << place_bits_) - 1));
    if (different > 0 && rows_[different - 1] == row) continue;
    rows_[different] = row;
    first_[different++] = i;
  }
  first_[different] = count;
  const bool is_sum = different < count || !std::equal(rows_.begin(), rows_.end(), given_.begin());
  touched.all = false;
  touched.rows = rows_.data();
  touched.count = different;
  touched.width = width;
  touched.first = is_sum ? first_.data() : nullptr;
  touched.places = places_.data();
  touched.values = count;
}

void update_rows(const Leaf& leaf, const Factors& factors, Kernel update, Scale scale, std::size_t begin,
                 std::size_t end) {
  const std::size_t width = leaf.touched->width;
  const std::size_t first = (begin + width - 1) / width, last = (end + width - 1) / width;
  if (leaf.hyper->lazy == Lazy::dense && !leaf.touched->all)
    update_all(leaf, factors, update, first, last);
  else
    update_touched(leaf, factors, update, scale, first, last);
}

void catch_up(const Leaf& leaf, std::size_t rows, Scale scale) {
  for (std::size_t row = 0; row < rows; ++row) decay(leaf, row, scale, leaf.touched->steps);
}

}  // namespace rmsprop_fast
