#include "rows.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace rmsprop_fast {
namespace {

char* advance(void* array, std::size_t elements, Element element) {
  return array ? static_cast<char*>(array) + elements * size_of(element) : nullptr;
}

// The leaf from that element on, with that gradient.
Leaf part_of(const Leaf& leaf, std::size_t first, const void* gradient) {
  const Element computed_in = compute_type(leaf.element);
  Leaf part = leaf;
  part.p = advance(leaf.p, first, leaf.element);
  part.g = gradient;
  part.s = advance(leaf.s, first, computed_in);
  part.m = advance(leaf.m, first, computed_in);
  part.b = advance(leaf.b, first, computed_in);
  part.lr = advance(const_cast<void*>(leaf.lr), first, computed_in);
  return part;
}

const void* gradient_at(const Leaf& leaf, std::size_t first) {
  return advance(const_cast<void*>(leaf.g), first, leaf.grad_element);
}

void prefetch([[maybe_unused]] const void* memory, [[maybe_unused]] std::size_t bytes) {
#ifndef _MSC_VER
  for (std::size_t at = 0; memory && at < bytes; at += 64) __builtin_prefetch(static_cast<const char*>(memory) + at, 1);
#endif
}

// Rows lie anywhere in memory, and the processor does not guess where the next ones are.
void prefetch_row(const Leaf& leaf, std::size_t row, std::size_t width) {
  constexpr std::size_t most = 1024;  // elements; the processor finds its way through longer rows
  const std::size_t size = std::min(width, most), kept = size * size_of(compute_type(leaf.element));
  const Leaf part = part_of(leaf, row * width, nullptr);
  prefetch(part.p, size * size_of(leaf.element));
  prefetch(part.s, kept);
  prefetch(part.m, kept);
  prefetch(part.b, kept);
}

void decay(const Leaf& leaf, std::size_t row, std::size_t width, Scale scale, std::int64_t now) {
  std::int64_t& last = leaf.touched->last[row];
  const std::int64_t missed = leaf.touched->steps - last;
  last = now;
  if (missed > 0)
    scale(advance(leaf.s, row * width, compute_type(leaf.element)),
          std::pow(leaf.hyper->rho, static_cast<double>(missed)), width);
}

void update_touched(const Leaf& leaf, const Factors& factors, Kernel update, Scale scale, std::size_t begin,
                    std::size_t end) {
  constexpr std::size_t ahead = 16;  // rows; of 8 to 32 the fastest in a table of 256 MB
  const Touched& touched = *leaf.touched;
  const std::size_t width = touched.width, last = (end + width - 1) / width;
  const auto row_at = [&](std::size_t i) { return touched.all ? i : static_cast<std::size_t>(touched.rows[i]); };
  for (std::size_t i = (begin + width - 1) / width, next; i < last; i = next) {
    // Rows side by side are one piece.
    for (next = i + 1; next < last && row_at(next) == row_at(next - 1) + 1;) ++next;
    if (!touched.all && next + ahead <= last) prefetch_row(leaf, row_at(next + ahead - 1), width);
    if (touched.last)
      for (std::size_t k = i; k < next; ++k) decay(leaf, row_at(k), width, scale, touched.steps + 1);
    update(part_of(leaf, row_at(i) * width, gradient_at(leaf, i * width)), factors, 0, (next - i) * width);
  }
}

// All elements, those of rows that the gradient does not have with zeros.
void update_all(const Leaf& leaf, const Factors& factors, Kernel update, std::size_t begin, std::size_t end) {
  static constexpr std::size_t most = 1024;
  static constexpr double zeros[most] = {};
  const Touched& touched = *leaf.touched;
  const std::int64_t* const last = touched.rows + touched.count;
  const std::int64_t* next = std::lower_bound(touched.rows, last, static_cast<std::int64_t>(begin / touched.width));
  while (begin < end) {
    const std::size_t row = next < last ? static_cast<std::size_t>(*next) * touched.width : end;  // where it begins
    if (begin < row) {
      const std::size_t to = std::min({row, end, begin + most});
      update(part_of(leaf, begin, zeros), factors, 0, to - begin);
      begin = to;
      continue;
    }
    const std::size_t to = std::min(row + touched.width, end);
    const std::size_t first = static_cast<std::size_t>(next - touched.rows) * touched.width + (begin - row);
    update(part_of(leaf, begin, gradient_at(leaf, first)), factors, 0, to - begin);
    begin = to;
    ++next;
  }
}

}  // namespace

std::int64_t* RowSums::make_room(std::size_t count) {
  given_.resize(count);
  return given_.data();
}

// By their digits of 11 bits, the lowest first, which keeps the order of those that are equal.
void RowSums::sort(std::int64_t highest) {
  constexpr int bits = 11;
  constexpr std::size_t digits = 1 << bits;
  entries_.resize(given_.size());
  other_.resize(given_.size());
  for (std::size_t i = 0; i < given_.size(); ++i) entries_[i] = {given_[i], i};
  if (std::is_sorted(given_.begin(), given_.end())) return;
  for (int shift = 0; shift < 63 && (highest >> shift) > 0; shift += bits) {
    const auto digit = [shift](std::int64_t row) { return static_cast<std::size_t>(row >> shift) % digits; };
    std::array<std::size_t, digits + 1> first = {};
    for (const Entry& entry : entries_) ++first[digit(entry.row) + 1];
    for (std::size_t i = 1; i < digits; ++i) first[i] += first[i - 1];
    for (const Entry& entry : entries_) other_[first[digit(entry.row)]++] = entry;
    entries_.swap(other_);
  }
}

void RowSums::add_up(const void* values, Element element, std::size_t width, std::int64_t highest, Element computed_in,
                     const KernelTable& kernels) {
  sort(highest);
  rows_.clear();
  index_.resize(entries_.size());
  for (const Entry& entry : entries_) {
    if (rows_.empty() || rows_.back() != entry.row) rows_.push_back(entry.row);
    index_[entry.place] = rows_.size() - 1;
  }

  // Values are read as they lie, which is fast; the sums are fewer.
  const std::size_t bytes = width * size_of(computed_in);
  sums_.assign((rows_.size() * bytes + sizeof(double) - 1) / sizeof(double), 0);
  const Add add = kernels.add[static_cast<int>(computed_in)];
  for (std::size_t i = 0; i < index_.size(); ++i)
    add(reinterpret_cast<char*>(sums_.data()) + index_[i] * bytes,
        static_cast<const char*>(values) + i * width * size_of(element), element, width);
}

void update_rows(const Leaf& leaf, const Factors& factors, Kernel update, Scale scale, std::size_t begin,
                 std::size_t end) {
  if (leaf.hyper->lazy == Lazy::dense)
    update_all(leaf, factors, update, begin, end);
  else
    update_touched(leaf, factors, update, scale, begin, end);
}

void catch_up(const Leaf& leaf, std::size_t rows, Scale scale) {
  for (std::size_t row = 0; row < rows; ++row) decay(leaf, row, leaf.touched->width, scale, leaf.touched->steps);
}

}  // namespace rmsprop_fast
