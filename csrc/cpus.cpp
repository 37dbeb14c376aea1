#include "cpus.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

#include "openmp.hpp"

namespace rmsprop_fast {
namespace {

#ifdef __linux__
// A mask of 16,384 CPUs: the system wants one as large as its own.
using Mask = cpu_set_t[16];
#endif

// Of the calling thread, unless OpenMP has bound it to one of many.
int affine_cpus() {
  if (const std::size_t bound = openmp::bound_cpus().size()) return static_cast<int>(bound);
#ifdef __linux__
  Mask mask;
  if (sched_getaffinity(0, sizeof mask, mask) == 0) return CPU_COUNT_S(sizeof mask, mask);
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

int least(double quota) {
  return std::max(1, static_cast<int>(std::min(static_cast<double>(affine_cpus()), std::ceil(quota))));
}

}  // namespace

int usable_cpus() {
  static const double quota = cgroup_quota("");
  return least(quota);
}

int usable_cpus(const std::string& root) { return least(cgroup_quota(root)); }

void leave_bound_cpu() {
#ifdef __linux__
  if (openmp::bound_cpus().empty()) return;
  Mask mask = {};
  for (const int cpu : openmp::bound_cpus()) CPU_SET_S(static_cast<std::size_t>(cpu), sizeof mask, mask);
  sched_setaffinity(0, sizeof mask, mask);
#endif
}

}  // namespace rmsprop_fast
