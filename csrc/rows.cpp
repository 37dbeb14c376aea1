#include "rows.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace rmsprop_fast {
namespace {

char* advance(void* array, std::size_t elements, Element element) {
  return array ? static_cast<char*>(array) + elements * size_of(element) : nullptr;
}

// The leaf from that element on, with the gradient from another one on.
Leaf part_of(const Leaf& leaf, std::size_t first, std::size_t first_of_gradient) {
  const Element computed_in = compute_type(leaf.element);
  Leaf part = leaf;
  part.p = advance(leaf.p, first, leaf.element);
  part.g_begin = first_of_gradient;
  part.s = advance(leaf.s, leaf.hyper->rowwise ? first / leaf.touched->width : first, computed_in);
  part.m = advance(leaf.m, first, computed_in);
  part.b = advance(leaf.b, first, computed_in);
  part.lr = advance(const_cast<void*>(leaf.lr), first, computed_in);
  return part;
}

void prefetch([[maybe_unused]] const void* memory, [[maybe_unused]] std::size_t bytes) {
#ifndef _MSC_VER
  for (std::size_t at = 0; memory && at < bytes; at += 64) __builtin_prefetch(static_cast<const char*>(memory) + at, 1);
  asm volatile("");  // or GCC 12 takes this for a function that does nothing, and leaves out its calls
#endif
}

// Rows lie anywhere in memory, and the processor does not guess where the next ones are.
void prefetch_row(const Leaf& leaf, std::size_t row, std::size_t width) {
  constexpr std::size_t most = 1024;  // elements; the processor finds its way through longer rows
  const std::size_t size = std::min(width, most), kept = size * size_of(compute_type(leaf.element));
  const Leaf part = part_of(leaf, row * width, 0);
  prefetch(part.p, size * size_of(leaf.element));
  prefetch(part.s, leaf.hyper->rowwise ? 1 : kept);
  prefetch(part.m, kept);
  prefetch(part.b, kept);
}

void decay(const Leaf& leaf, std::size_t row, Scale scale, std::int64_t now) {
  std::int64_t& last = leaf.touched->last[row];
  const std::int64_t missed = leaf.touched->steps - last;
  last = now;
  const std::size_t size = leaf.hyper->rowwise ? 1 : leaf.touched->width;
  if (missed > 0)
    scale(advance(leaf.s, row * size, compute_type(leaf.element)),
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
    update(part_of(leaf, row_at(i) * width, i * width), factors, 0, (next - i) * width);
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
      Leaf untouched = part_of(leaf, row * touched.width, 0);
      untouched.g = nullptr;
      update(untouched, factors, 0, (next_row - row) * touched.width);
    }
    if (next_row == end) return;
    const auto i = static_cast<std::size_t>(next++ - touched.rows);
    update(part_of(leaf, next_row * touched.width, i * touched.width), factors, 0, touched.width);
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
