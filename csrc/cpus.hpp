// How many CPUs this process may use.
#pragma once

#include <string>

namespace rmsprop_fast {

// The least of the calling thread's affinity mask and the cgroup's CPU quota (rounded up), at least 1. The quota is
// that of the first call.
int usable_cpus();

// The same with the quota of another machine, the /proc and /sys of which are in this folder: for tests.
int usable_cpus(const std::string& root);

// If OpenMP has bound the thread that made the calling thread to one CPU, gives it all CPUs that OpenMP binds threads
// to.
void leave_bound_cpu();

}  // namespace rmsprop_fast
