#include "gradient.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace rmsprop_fast {
namespace {

constexpr std::size_t block_size = 4096;

std::size_t blocks_of(const Leaf& leaf) { return (gradient_size(leaf) + block_size - 1) / block_size; }

double clip(double most, double norm) { return most == no_limit || norm <= most ? 1 : most / norm; }

double multiplier_of_leaf(const Leaf& leaf, double leaf_norm, double norm) {
  const Hyper& hyper = *leaf.hyper;
  return multiplier_of(hyper, clip(hyper.clip_norm, leaf_norm) * clip(hyper.clip_global_norm, norm));
}

// A norm that overflows would clip everything to 0.
bool is_usable(double most, double norm) { return most == no_limit || std::isfinite(norm); }

template <class Real>
bool has_finite_square(double multiplier, double g) {
  const Real multiplied = static_cast<Real>(multiplier) * static_cast<Real>(g);
  return std::isfinite(multiplied * multiplied);
}

// Has a gradient g of this leaf a finite square after the multiplier?
bool has_finite_square(const Leaf& leaf, double multiplier, double g) {
  return (leaf.element == Element::float64 ? has_finite_square<double> : has_finite_square<float>)(multiplier, g);
}

// Do all gradients of a leaf have a finite square after the multiplier? `sums` are those of its blocks.
bool has_finite_squares(const Leaf& leaf, const double* sums, double multiplier, const KernelTable& kernels) {
  const std::size_t size = gradient_size(leaf);
  for (std::size_t begin = 0; begin < size; begin += block_size) {
    // Rounding keeps the order of products, so no gradient overflows if the largest does not, or what is larger still:
    // the root of the sum, plus its rounding errors.
    if (has_finite_square(leaf, multiplier, 1.001 * std::sqrt(*sums++))) continue;
    const Reduction largest = kernels.largest[static_cast<int>(compute_type(leaf.grad_element))];
    if (!has_finite_square(leaf, multiplier, largest(leaf, begin, std::min(begin + block_size, size)))) return false;
  }
  return true;
}

}  // namespace

void Gradient::prepare(std::span<const Leaf> leaves) {
  first_block_.clear();
  std::size_t count = 0;
  for (const Leaf& leaf : leaves) {
    first_block_.push_back(count);
    count += blocks_of(leaf);
  }
  sums_.resize(count);
  multipliers_.resize(leaves.size());
}

void Gradient::sum_up(std::size_t index, const Leaf& leaf, const KernelTable& kernels, std::size_t begin,
                      std::size_t end) {
  const Reduction sum_of_squares = kernels.sum_of_squares[static_cast<int>(compute_type(leaf.grad_element))];
  double* const sums = &sums_[first_block_[index]];
  for (std::size_t block = (begin + block_size - 1) / block_size; block * block_size < end; ++block)
    sums[block] = sum_of_squares(leaf, block * block_size, std::min((block + 1) * block_size, gradient_size(leaf)));
}

void Gradient::conclude(std::span<const Leaf> leaves, const KernelTable& kernels) {
  const auto norm = [&](std::size_t leaf, double sum_of_squares) {
    return std::sqrt(sum_of_squares) / leaves[leaf].hyper->grad_scale;
  };

  // Blocks in order, then leaves in order. A leaf's norm waits in the place of its multiplier.
  double sum = 0;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const double* const sums = sums_.data() + first_block_[i];
    const double leaf_sum = std::accumulate(sums, sums + blocks_of(leaves[i]), 0.0);
    multipliers_[i] = norm(i, leaf_sum);
    sum += leaf_sum;
  }
  norm_ = leaves.empty() ? 0 : norm(0, sum);

  is_finite_ = true;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const Hyper& hyper = *leaves[i].hyper;
    const double leaf_norm = multipliers_[i];
    multipliers_[i] = multiplier_of_leaf(leaves[i], leaf_norm, norm_);
    if (hyper.skip_nonfinite && is_finite_)
      is_finite_ = is_usable(hyper.clip_norm, leaf_norm) && is_usable(hyper.clip_global_norm, norm_) &&
                   has_finite_squares(leaves[i], sums_.data() + first_block_[i], multipliers_[i], kernels);
  }
}

void Gradient::conclude(std::span<const Leaf> leaves, double norm) {
  norm_ = norm;
  is_finite_ = std::isfinite(norm);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    multipliers_[i] = multiplier_of_leaf(leaves[i], 0, norm);
    // No gradient exceeds the norm, and all processes come to the same conclusion.
    is_finite_ = is_finite_ && has_finite_square(leaves[i], multipliers_[i], norm);
  }
}

}  // namespace rmsprop_fast
