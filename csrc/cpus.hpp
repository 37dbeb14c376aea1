// How many CPUs this process may use.
#pragma once

#include <string>

namespace rmsprop_fast {

// The least of the affinity mask and the cgroup's CPU quota (rounded up), at least 1. `root` stands before /proc and
// /sys, so that tests can show other machines.
int usable_cpus(const std::string& root = "");

}  // namespace rmsprop_fast
