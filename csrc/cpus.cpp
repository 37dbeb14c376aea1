#include "cpus.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <thread>

#ifdef __linux__
#include <sched.h>

#include <vector>
#endif

namespace rmsprop_fast {
namespace {

int hardware_cpus() {
#ifdef __linux__
  // The kernel wants a mask as large as its own; grow until it fits.
  for (std::size_t cpus = 1024; cpus <= 1u << 20; cpus *= 2) {
    std::vector<unsigned char> mask(CPU_ALLOC_SIZE(cpus));
    auto* set = reinterpret_cast<cpu_set_t*>(mask.data());
    if (sched_getaffinity(0, mask.size(), set) == 0) return CPU_COUNT_S(mask.size(), set);
  }
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

constexpr double unlimited = std::numeric_limits<double>::infinity();

// cgroup v2: one file with "quota period", or "max period".
double quota_v2(const std::string& directory) {
  std::ifstream file(directory + "/cpu.max");
  double quota = 0, period = 0;
  return file >> quota >> period && quota > 0 && period > 0 ? quota / period : unlimited;
}

// cgroup v1: two files; a quota of -1 means none.
double quota_v1(const std::string& directory) {
  std::ifstream quota_file(directory + "/cpu.cfs_quota_us"), period_file(directory + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  return quota_file >> quota && period_file >> period && quota > 0 && period > 0 ? quota / period : unlimited;
}

// The tightest quota from the process's own group up to the root: each level limits all below it.
double cgroup_quota(const std::string& root) {
  double quota = unlimited;
  std::ifstream groups(root + "/proc/self/cgroup");
  // A line is "id:controllers:path"; version 2 has the id 0 and no controllers.
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = std::string(",").append(line, first + 1, second - first - 1).append(",");
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
    const std::string mount = root + "/sys/fs/cgroup" + (v2 ? "" : "/cpu");
    for (std::string path = line.substr(second + 1);; path.erase(path.find_last_of('/'))) {
      if (path == "/") path.clear();
      quota = std::min(quota, v2 ? quota_v2(mount + path) : quota_v1(mount + path));
      if (path.find('/') == std::string::npos) break;
    }
  }
  return quota;
}

}  // namespace

int usable_cpus(const std::string& root) {
  const double cpus = std::min(static_cast<double>(hardware_cpus()), std::ceil(cgroup_quota(root)));
  return std::max(1, static_cast<int>(cpus));
}

}  // namespace rmsprop_fast
