#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <stdexcept>
#include <string>

#include "cpus.hpp"

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
static int omp_get_num_threads() { return 1; }
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

namespace rmsprop_fast::parallel {
namespace {

std::atomic<int> chosen_threads = default_threads;
std::atomic<bool> forked = false;

// Steps with fewer elements a thread are not worth a look at the clock. 0: threads whatever it takes.
std::atomic<std::size_t> least_share = 2 * 1024;

using Clock = std::chrono::steady_clock;
using Time = std::chrono::duration<double, std::nano>;

// What steps took so far. Other threads take work over, but they are to be woken, and the last one to be waited for:
// 1 us while they are awake, 20 to 100 us when they sleep, milliseconds when another process has their processor, and
// OMP_WAIT_POLICY changes it, too. So it is measured.
struct Experience {
  Time element{0.3};  // in one thread
  Time threads;       // what they cost
  Time without{0};    // of the steps since threads were used
  Time with{0};       // and since they were not

  // Slowly, as anything may interrupt a step.
  void learn_element(Time measured) {
    element = std::min((element + measured) / 2, 1.1 * element);
    with = Time(0);
  }
  void learn_threads(Time measured) {
    threads = (threads + std::clamp(measured, Time(100), 2 * threads)) / 2;
    without = Time(0);
  }
};

// OpenMP has a pool for each calling thread.
struct Pool {
  Experience awake{.threads = Time(1e3)}, asleep{.threads = Time(25e3)};
  Clock::time_point last_step, last_region;
};
thread_local Pool pool;

// Its threads wait awake for about so long.
constexpr std::chrono::microseconds awake_for{500};

// Chunks start at multiples of this many elements, so that they share no cache line when the arrays are aligned.
constexpr std::size_t grain = 16;

// Updates the elements [begin, end) of all leaves, counted through as if they lay in one row.
void update(const Work& work, std::size_t begin, std::size_t end) {
  for (std::size_t i = 0; i < work.leaves.size() && end > 0; ++i) {
    const Leaf& leaf = work.leaves[i];
    if (begin < leaf.size) {
      int with = leaf.hyper->variant;
      if (leaf.lr) with |= variant::options | variant::lr_per_element;
      if (leaf.m) with |= variant::centered;
      if (leaf.b) with |= variant::momentum;
      const auto& kernels = work.kernels.update[static_cast<int>(leaf.element)][static_cast<int>(leaf.grad_element)];
      const double multiplier =
          leaf.hyper->needs_gradient ? work.gradient.multiplier(i) : leaf.hyper->unclipped_multiplier;
      kernels[with](leaf, multiplier, begin, std::min(end, leaf.size));
    }
    begin -= std::min(begin, leaf.size);
    end -= std::min(end, leaf.size);
  }
}

// Must something be known of the gradients before anything changes?
bool needs_gradient(const Work& work) { return !work.leaves.empty() && work.leaves.front().hyper->needs_gradient; }

void measure(const Work& work, std::size_t begin, std::size_t end) {
  if (!work.norm) work.gradient.measure(work.leaves, work.kernels, begin, end);
}

// False if the step is to be skipped.
bool conclude(const Work& work) {
  if (work.norm)
    work.gradient.conclude(work.leaves, *work.norm);
  else
    work.gradient.conclude(work.leaves, work.kernels);
  return !work.leaves.front().hyper->skip_nonfinite || work.gradient.is_finite();
}

bool run_serially(const Work& work) {
  if (needs_gradient(work)) {
    measure(work, 0, work.elements);
    if (!conclude(work)) return false;
  }
  update(work, 0, work.elements);
  return true;
}

bool run_on_threads(const Work& work) {
  // The pool's threads have a floating-point mode of their own (rounding, flush to zero); take the caller's, or the
  // bits would depend on which thread came to an element.
  std::fenv_t callers;
  std::fegetenv(&callers);
  bool goes_on = true;
#pragma omp parallel num_threads(work.threads)
  {
    std::fenv_t own;
    std::fegetenv(&own);
    std::fesetenv(&callers);
    // OpenMP may give fewer threads than asked for; each takes its share of what is there.
    const auto index = static_cast<std::size_t>(omp_get_thread_num());
    const auto shares = static_cast<std::size_t>(omp_get_num_threads());
    const std::size_t grains = (work.elements + grain - 1) / grain;
    const std::size_t begin = grains * index / shares * grain;
    const std::size_t end = std::min(work.elements, grains * (index + 1) / shares * grain);
    if (needs_gradient(work)) {
      measure(work, begin, end);
#pragma omp barrier
#pragma omp single
      goes_on = conclude(work);
    }
    if (goes_on) update(work, begin, end);
    std::fesetenv(&own);
  }
  return goes_on;
}

}  // namespace

void prepare() {
#ifndef _WIN32
  // A child has only the forking thread; GNU's OpenMP would wait for the others for ever.
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif
}

int threads() {
#ifdef _OPENMP
  if (forked) return 1;
  if (const int count = chosen_threads; count != default_threads) return count;
  static const int cpus = usable_cpus();
  return std::min(cpus, omp_get_max_threads());
#else
  return 1;
#endif
}

void set_threads(int count) {
#ifdef _OPENMP
  const char* serial =
      forked ? "in a forked process, where OpenMP's threads do not exist ('spawn' starts have them)" : nullptr;
#else
  const char* serial = "in this build, which has no OpenMP";
#endif
  if (serial && count > 1)
    throw std::runtime_error("set_num_threads: expected 1 " + std::string(serial) + ", got " + std::to_string(count));
  chosen_threads = count;
}

std::size_t share() { return least_share; }
void set_share(std::size_t least) { least_share = least; }

bool run(const Work& work) {
  const std::size_t share = work.elements / static_cast<std::size_t>(work.threads);
  if (work.threads == 1 || share < least_share) return run_serially(work);
  if (least_share == 0) return run_on_threads(work);

  constexpr Time long_step(2e5);  // is worth threads, and says little about their cost
  constexpr double margin = 1.2;  // or steps at the border would go to and fro
  constexpr double rarely = 100;  // 1 % of the time may go into finding out whether the other way is quicker by now

  const auto start = Clock::now();
  Experience& expected = start - pool.last_step < awake_for ? pool.awake : pool.asleep;  // a loop keeps threads awake
  Experience& met = start - pool.last_region < awake_for ? pool.awake : pool.asleep;     // unless it went without
  const Time alone = expected.element * static_cast<double>(work.elements);
  const Time saved = expected.element * static_cast<double>(work.elements - share);
  const bool pays = saved > margin * expected.threads;
  const bool tries_other =
      pays ? expected.with > rarely * alone : expected.without > rarely * std::max(expected.threads, met.threads);
  const bool on_threads = alone > long_step || pays != tries_other;
  const bool done = on_threads ? run_on_threads(work) : run_serially(work);
  const auto end = Clock::now();

  if (!on_threads) {
    expected.learn_element((end - start) / static_cast<double>(work.elements));
    expected.without += end - start;
  } else {
    if (alone <= long_step) met.learn_threads(end - start - met.element * static_cast<double>(share));
    expected.with += end - start;
    pool.last_region = end;
  }
  pool.last_step = end;
  return done;
}

}  // namespace rmsprop_fast::parallel
