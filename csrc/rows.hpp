// Sparse gradients: rows in any order, some more than once -> each row once, in order -> a step of these rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernel.hpp"

namespace rmsprop_fast {

// What messages say of rows that have no blocks of their own, before the width of these.
constexpr const char* wide_rows_expected =
    "expected a dense gradient, or rows along the first axis of at least 32 elements, with state_dtype='uint8', got "
    "rows "
    "of ";

// The rows that a sparse gradient has, in order, and of which values each is the sum, in the order in which they came.
class RowSums {
 public:
  // Room for the rows of a gradient, to be filled in the order in which they come.
  std::int64_t* make_room(std::size_t count);

  // Works out what a step needs to know of them, for as long as nothing else is arranged. No row is above `highest`.
  void arrange(std::size_t width, std::int64_t highest, Touched& touched);

 private:
  void sort(std::int64_t highest);

  std::vector<std::int64_t> given_, rows_;
  std::vector<std::uint64_t> keys_, other_;  // a row, and behind it in the lower bits the place where it came
  int place_bits_ = 0;
  std::vector<std::size_t> places_, first_;
};

// Updates the rows of a leaf that begin in [begin, end), counted in elements: of its gradient, or with Lazy::dense, of
// the leaf.
void update_rows(const Leaf& leaf, const Factors& factors, Kernel update, Scale scale, std::size_t begin,
                 std::size_t end);

// Lazy::catch_up: lets s of all rows decay by the steps they have missed.
void catch_up(const Leaf& leaf, std::size_t rows, Scale scale);

}  // namespace rmsprop_fast
