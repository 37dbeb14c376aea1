// Threads of our own, which sleep when there is nothing to do.
//
// OpenMP's threads wait awake for their next region, for milliseconds, and so take a CPU from the threads of OpenBLAS
// that compute the next gradient; OpenBLAS's do the same to a step on OpenMP's threads. In a loop of both, two threads
// were slower than one. Ours give way while they wait, and sleep soon; and a step waits for none that has not come in
// time.
#pragma once

#include <functional>

namespace rmsprop_fast::workers {

// To be called once, when the module is loaded. Starts no thread.
void prepare();

// Calls task(0) in the calling thread, and task(seat) for seats 1 to seats - 1 in other threads, as far as these come
// before task(0) has returned. Returns when all calls have. If the threads work for another caller, there is task(0)
// alone.
void run_seats(int seats, const std::function<void(int)>& task);

}  // namespace rmsprop_fast::workers
