// A step of leaves, for every front end.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "gradient.hpp"
#include "kernel.hpp"
#include "threads.hpp"

namespace rmsprop_fast {

// Whose threads take a step. OpenMP's where the gradient was made on them, as PyTorch does: they are awake. Our own
// elsewhere: they do not take a CPU from other threads.
enum class Pool { own, openmp };

struct Work {
  std::span<const Leaf> leaves;
  std::size_t elements;  // of all leaves
  const Hyper& hyper;    // those of a leaf agree with it on what concerns the whole gradient
  Gradient& gradient;    // prepared for these leaves
  const KernelTable& kernels;
  Pool pool = Pool::own;
  int most_threads = threads::highest;
  std::optional<double> norm = {};  // of the whole gradient, if that is not here
};

struct Outcome {
  bool is_taken;                    // or was it skipped, and nothing changed?
  std::optional<double> grad_norm;  // of the whole gradient, if the step needed it
};

Outcome step(const Work& work);

}  // namespace rmsprop_fast
