#include "threads.hpp"

#include <algorithm>
#include <atomic>

#include "cpus.hpp"
#include "openmp.hpp"

namespace rmsprop_fast::threads {
namespace {

std::atomic<int> chosen = automatic;

// About 5 us of work in cache: more than it costs to call a thread that is awake.
std::atomic<std::size_t> elements_a_thread = 16 * 1024;

}  // namespace

int most() {
  if (const int count = chosen; count != automatic) return count;
  return std::min(usable_cpus(), openmp::limit());
}

void set_most(int count) { chosen = count; }

std::size_t share() { return elements_a_thread; }
void set_share(std::size_t elements) { elements_a_thread = elements; }

int for_step(std::size_t elements, int limit) {
  const std::size_t shares = elements / std::max(share(), std::size_t{1});
  if (shares < 2) return 1;  // without a question to the system, as small steps are many
  return static_cast<int>(std::min(shares, static_cast<std::size_t>(std::min(most(), limit))));
}

}  // namespace rmsprop_fast::threads
