// Sparse gradients: rows in any order, some more than once -> each row once, in order -> a step of these rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernel.hpp"

namespace rmsprop_fast {

// The sum of what a sparse gradient has for each row. A row's values are added in the order in which they came.
class RowSums {
 public:
  // Room for the rows of a gradient, to be filled in the order in which they come.
  std::int64_t* make_room(std::size_t count);

  // Adds up; `values` lie as the rows came, `width` for each.
  void add_up(const void* values, Element element, std::size_t width, std::int64_t highest, Element computed_in,
              const KernelTable& kernels);

  const std::vector<std::int64_t>& rows() const { return rows_; }
  const void* sums() const { return sums_.data(); }

 private:
  struct Entry {
    std::int64_t row;
    std::size_t place;  // in the order in which they came
  };
  void sort(std::int64_t highest);

  std::vector<std::int64_t> given_, rows_;
  std::vector<std::size_t> index_;  // of the sum that each of the given rows belongs to
  std::vector<Entry> entries_, other_;
  std::vector<double> sums_;  // memory for numbers of the compute type
};

// Updates the rows of a leaf with a sparse gradient that begin in [begin, end) of its elements; with Lazy::dense, these
// elements.
void update_rows(const Leaf& leaf, const Factors& factors, Kernel update, Scale scale, std::size_t begin,
                 std::size_t end);

// Lazy::catch_up: lets s of all rows decay by the steps they have missed.
void catch_up(const Leaf& leaf, std::size_t rows, Scale scale);

}  // namespace rmsprop_fast
