// The only OpenMP: what it allows, where it binds threads, and its pool of threads, which PyTorch shares with us.
#pragma once

#include <functional>
#include <vector>

namespace rmsprop_fast::openmp {

// To be called once, when the module is loaded. Starts no thread.
void prepare();

// How many threads it allows the calling thread: OMP_NUM_THREADS, OMP_THREAD_LIMIT, threadpoolctl. Without OpenMP, as
// many as one likes.
int limit();

// The CPUs that it binds threads to (OMP_PROC_BIND, OMP_PLACES, GOMP_CPU_AFFINITY), or none if it does not. It binds
// the initial thread when it is loaded, the affinity mask of which says nothing then.
const std::vector<int>& bound_cpus();

// Can a parallel region with so many threads begin? Not in a forked child, where GNU's OpenMP would wait for ever for
// threads that are not there, nor where they cannot be created, as it would end the process.
bool can_run(int threads);

// Calls task(thread) in a parallel region, in each of its threads; there may be fewer than asked for. A pool is kept
// for one number of threads and made anew for another, so callers stay with one.
void run_region(int threads, const std::function<void(int)>& task);

}  // namespace rmsprop_fast::openmp
