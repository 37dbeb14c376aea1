// The only OpenMP: cut the work into chunks, run them.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "gradient.hpp"
#include "kernel.hpp"

namespace rmsprop_fast::parallel {

// To be called once, when the module is loaded. Starts no thread.
void prepare();

// How many threads a large step uses: as set, or else the least of the CPUs this process may use and OpenMP's own limit
// (OMP_NUM_THREADS, threadpoolctl). 1 in a forked child, where OpenMP's threads do not exist.
int threads();

constexpr int default_threads = 0;
constexpr int most_threads = 1024;
// `count` from 1 to most_threads, or default_threads. Throws std::runtime_error where there can be only one.
void set_threads(int count);

// From how many elements a thread on a step uses threads if that is quicker, which it finds out; 0: always.
std::size_t share();
void set_share(std::size_t least);

// A step of all leaves, `elements` in sum. Their hyper-parameters agree on what concerns the whole gradient.
struct Work {
  std::span<const Leaf> leaves;
  std::size_t elements;
  const KernelTable& kernels;
  Gradient& gradient;  // prepared for these leaves; where a step that needs it finds what it has to know of gradients
  int threads;         // at most
  std::optional<double> norm = {};  // of the whole gradient, if that is not here
};

// Takes the step, in one parallel region if it is worth it. False if it was to be skipped: then nothing was changed.
bool run(const Work& work);

}  // namespace rmsprop_fast::parallel
