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

// What other threads cost beyond the work that they take over: to wake them, and to wait for the last one. That is 1 us
// while they wait for work, 20 to 100 us when they sleep, and milliseconds when another process has their processor;
// OMP_WAIT_POLICY changes it, too. So it is measured.
struct Cost {
  Time time;
  Time without{0};  // of the steps since then that went without threads

  void learn(Time measured) {
    time = std::clamp(measured, Time(100), 2 * time);  // slowly up, as anything may interrupt a step
    without = Time(0);
  }

  // To find out when it became less, 1 % of the time of steps may go into trying.
  bool is_to_be_tried() const { return without > 100 * time; }
};

// OpenMP has a pool for each calling thread, and so each has its own experience.
struct Experience {
  Cost awake{Time(1e3)}, asleep{Time(25e3)};
  Time element{0.3};  // for one thread
  Clock::time_point last_step, last_region;
};
thread_local Experience experience;

// OpenMP's threads wait awake for about so long.
constexpr std::chrono::microseconds awake_for{500};

// Longer steps say little about the cost of threads.
constexpr std::chrono::microseconds telling{200};

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

// `busy` becomes the time that the calling thread worked.
bool run_on_threads(const Work& work, Time& busy) {
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
    const auto timed = [&](const auto& task) {
      if (index != 0) return task(work, begin, end);
      const auto start = Clock::now();
      task(work, begin, end);
      busy += Clock::now() - start;
    };
    if (needs_gradient(work)) {
      timed(measure);
#pragma omp barrier
#pragma omp single
      goes_on = conclude(work);
    }
    if (goes_on) timed(update);
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

  const auto start = Clock::now();
  Experience& so_far = experience;
  const bool in_a_loop = start - so_far.last_step < awake_for;  // of steps that keep threads awake
  Cost& expected = in_a_loop ? so_far.awake : so_far.asleep;
  const Time saved = so_far.element * static_cast<double>(work.elements - share);
  const bool on_threads = least_share == 0 || saved > expected.time || expected.is_to_be_tried();
  Time busy{0};
  const bool done = on_threads ? run_on_threads(work, busy) : run_serially(work);
  const auto end = Clock::now();

  const Time element =
      on_threads ? busy / static_cast<double>(share) : (end - start) / static_cast<double>(work.elements);
  so_far.element = (so_far.element + element) / 2;
  if (on_threads) {
    Cost& met = start - so_far.last_region < awake_for ? so_far.awake : so_far.asleep;
    if (busy < telling) met.learn(end - start - busy);
    so_far.last_region = end;
  } else {
    expected.without += end - start;
  }
  so_far.last_step = end;
  return done;
}

}  // namespace rmsprop_fast::parallel
