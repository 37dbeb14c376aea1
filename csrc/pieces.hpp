// Leaves -> pieces of work: cut at tile boundaries of each leaf, shared out to seats, and taken one by one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <span>
#include <vector>

#include "kernel.hpp"

namespace rmsprop_fast {

// What of a leaf is worked on: as many elements as it has, or its gradient.
using Extent = std::size_t (*)(const Leaf& leaf);

// The elements of all leaves, counted through in whole tiles.
class Walk {
 public:
  Walk(std::span<const Leaf> leaves, Extent extent) : leaves_(leaves), extent_(extent) {}

  // Calls function(index, leaf, from, to) for the parts of leaves in [begin, end). Quick if `begin` is where the last
  // call ended, or comes after that.
  template <class Function>
  void parts(std::size_t begin, std::size_t end, const Function& function) {
    if (begin < first_) index_ = first_ = 0;
    while (index_ < leaves_.size() && first_ < end) {
      const Leaf& leaf = leaves_[index_];
      const std::size_t size = extent_(leaf), last = first_ + in_tiles(size);
      const std::size_t from = std::max(begin, first_) - first_;
      const std::size_t to = std::min(end - first_, size);
      if (from < to) function(index_, leaf, from, to);
      if (last > end) return;
      first_ = last;
      ++index_;
    }
  }

  std::size_t length() const {
    std::size_t sum = 0;
    for (const Leaf& leaf : leaves_) sum += in_tiles(extent_(leaf));
    return sum;
  }

  static std::size_t in_tiles(std::size_t size) { return (size + tile_size - 1) / tile_size * tile_size; }

 private:
  std::span<const Leaf> leaves_;
  Extent extent_;
  std::size_t index_ = 0;  // of a leaf
  std::size_t first_ = 0;  // where it begins
};

// Pieces, of which each seat has a share side by side: it finds in its caches what it had in the step before. A seat
// that is done takes what is left of the others' shares, so that nobody waits for one that is not there.
class Pieces {
 public:
  void share_out(std::size_t elements, int seats) {
    elements_ = elements;
    seats_ = static_cast<std::size_t>(seats);
    size_ = std::clamp(Walk::in_tiles(elements / seats_), tile_size, most_elements);
    if (shares_.size() < seats_) shares_ = std::vector<Share>(seats_);
    for (std::size_t seat = 0; seat < seats_; ++seat) {
      shares_[seat].next.store(count() * seat / seats_, std::memory_order_relaxed);
      shares_[seat].end = count() * (seat + 1) / seats_;
    }
  }

  std::size_t count() const { return (elements_ + size_ - 1) / size_; }

  // Calls function(begin, end) for pieces, until all are taken.
  template <class Function>
  void take(int seat, const Function& function) {
    for (std::size_t turn = 0; turn < seats_; ++turn) {
      Share& share = shares_[(static_cast<std::size_t>(seat) + turn) % seats_];
      for (std::size_t piece; (piece = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;)
        function(piece * size_, std::min(elements_, (piece + 1) * size_));
    }
  }

 private:
  static constexpr std::size_t most_elements = 8 * 1024;  // a few us of work

  struct alignas(64) Share {
    std::atomic<std::size_t> next = 0;
    std::size_t end = 0;
  };
  std::vector<Share> shares_;
  std::size_t elements_ = 0, size_ = 1, seats_ = 1;
};

}  // namespace rmsprop_fast
