// How many threads a step uses.
#pragma once

#include <cstddef>

namespace rmsprop_fast::threads {

// As set, or else the least of the CPUs that the calling thread may use and OpenMP's own limit.
int most();

constexpr int automatic = 0;
constexpr int highest = 1024;
// From 1 to `highest`, or automatic.
void set_most(int count);

// The rule: a step uses one thread for each so many elements, up to its most.
std::size_t share();
void set_share(std::size_t elements);

// How many threads a step of so many elements uses, up to most() and `limit`.
int for_step(std::size_t elements, int limit = highest);

}  // namespace rmsprop_fast::threads
