// What a step has to know of the whole gradient before it changes anything: norms, and whether all of it is finite.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kernel.hpp"

namespace rmsprop_fast {

class Gradient {
 public:
  // Makes room for the gradients of these leaves.
  void prepare(std::span<const Leaf> leaves);

  // Sums up the squares in the blocks of leaf number `index` that begin in [begin, end). Each block has a sum of its
  // own, so that no bit depends on how they are shared out.
  void sum_up(std::size_t index, const Leaf& leaf, const KernelTable& kernels, std::size_t begin, std::size_t end);

  // Works out norms and multipliers, once all is summed up.
  void conclude(std::span<const Leaf> leaves, const KernelTable& kernels);

  // Works out the multipliers from the norm of a gradient of which these leaves are only a part. Norms of leaves, for
  // clip_norm, are not known then.
  void conclude(std::span<const Leaf> leaves, double norm);

  // Of all leaves, after unscaling and before clipping.
  double norm() const { return norm_; }

  // All gradients and their squares after the multiplier, and the norms that clip; looked at for skip_nonfinite only.
  bool is_finite() const { return is_finite_; }

  double multiplier(std::size_t leaf) const { return multipliers_[leaf]; }

 private:
  std::vector<double> sums_;              // of the blocks of the leaves in order
  std::vector<std::size_t> first_block_;  // of each leaf
  std::vector<double> multipliers_;       // of each leaf
  double norm_ = 0;
  bool is_finite_ = true;
};

}  // namespace rmsprop_fast
