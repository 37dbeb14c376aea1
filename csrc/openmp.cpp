#include "openmp.hpp"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <cstdio>
#include <exception>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <pthread.h>
#endif

namespace rmsprop_fast::openmp {
namespace {

std::atomic<bool> is_forked = false;

// Was this process forked, and has it not called exec since? Then another library may have used OpenMP before the fork.
bool was_forked() {
  constexpr unsigned long forked_no_exec = 0x40;  // PF_FORKNOEXEC of the Linux kernel
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  // "pid (name) state ppid pgrp session tty tpgid flags ...": the name may hold anything
  unsigned long flags = 0;
  const std::size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return false;
  return std::sscanf(line.c_str() + name_end + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) == 1 &&
         (flags & forked_no_exec) != 0;
}

// Can so many threads exist besides this one?
bool can_create(int threads) {
  std::atomic<bool> go_on = false;
  std::vector<std::thread> created;
  try {
    created.reserve(static_cast<std::size_t>(threads));
    while (static_cast<int>(created.size()) < threads) created.emplace_back([&] { go_on.wait(false); });
  } catch (const std::exception&) {  // no thread, or no memory for one
  }
  go_on = true;
  go_on.notify_all();
  for (std::thread& thread : created) thread.join();
  return static_cast<int>(created.size()) == threads;
}

}  // namespace

void prepare() {
#ifdef __linux__
  is_forked = was_forked();
  pthread_atfork(nullptr, nullptr, [] { is_forked = true; });
#endif
}

#ifdef _OPENMP

// The OpenMP of MSVC is that of 2002, which has no limit and no places.
int limit() {
#if _OPENMP >= 200805
  return std::min(omp_get_max_threads(), omp_get_thread_limit());
#else
  return omp_get_max_threads();
#endif
}

const std::vector<int>& bound_cpus() {
  // Never destroyed, as workers may look at it when the process ends.
  static const auto& found = *new const std::vector<int>([] {
    std::vector<int> cpus;
#if _OPENMP >= 201511
    if (omp_get_proc_bind() == omp_proc_bind_false) return cpus;
    for (int place = 0; place < omp_get_num_places(); ++place) {
      std::vector<int> ids(static_cast<std::size_t>(omp_get_place_num_procs(place)));
      omp_get_place_proc_ids(place, ids.data());
      cpus.insert(cpus.end(), ids.begin(), ids.end());
    }
    std::sort(cpus.begin(), cpus.end());
    cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
#endif
    return cpus;
  }());
  return found;
}

bool can_run(int threads) {
  thread_local int created = 1, refused = std::numeric_limits<int>::max();  // of the pool of this thread
  if (is_forked) return false;
  if (threads > created && threads < refused) (can_create(threads - 1) ? created : refused) = threads;
  return threads <= created;
}

void run_region(int threads, const std::function<void(int)>& task) {
  // The pool's threads have a floating-point mode of their own (rounding, flush to zero); take the caller's, or the
  // bits would depend on which thread came to an element.
  std::fenv_t callers;
  std::fegetenv(&callers);
#pragma omp parallel num_threads(threads)
  {
    std::fenv_t own;
    std::fegetenv(&own);
    std::fesetenv(&callers);
    task(omp_get_thread_num());
    std::fesetenv(&own);
  }
}

#else

int limit() { return std::numeric_limits<int>::max(); }

const std::vector<int>& bound_cpus() {
  static const std::vector<int> none;
  return none;
}

bool can_run(int) { return false; }
void run_region(int, const std::function<void(int)>&) {}

#endif

}  // namespace rmsprop_fast::openmp
