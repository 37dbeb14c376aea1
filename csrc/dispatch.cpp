#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(_MSC_VER) && defined(_M_X64)
#include <intrin.h>
#endif

namespace rmsprop_fast::dispatch {
namespace {

struct Implementation {
  const KernelTable* kernels;
  bool (*supported)();
};

bool always() { return true; }

#if defined(__x86_64__)

// The compiler's own check includes whether the operating system saves the wider registers.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#elif defined(_M_X64)

// Bit `bit` of EBX of CPUID leaf 7, if the operating system saves the registers in `mask` (XCR0).
bool has_feature(int bit, unsigned long long mask) {
  int registers[4];
  __cpuid(registers, 0);
  if (registers[0] < 7) return false;
  __cpuid(registers, 1);
  constexpr int osxsave = 1 << 27;
  if (!(registers[2] & osxsave) || (_xgetbv(0) & mask) != mask) return false;
  __cpuidex(registers, 7, 0);
  return (static_cast<unsigned>(registers[1]) >> bit) & 1u;
}
bool has_avx2() { return has_feature(5, 0x06); }
bool has_avx512() {
  constexpr unsigned long long zmm = 0xe6;
  return has_feature(16, zmm) && has_feature(17, zmm) && has_feature(30, zmm) && has_feature(31, zmm);
}

#endif

// Best first; the last one runs on every CPU of its architecture. CMakeLists.txt compiles the same list.
constexpr Implementation implementations[] = {
#if defined(__x86_64__) || defined(_M_X64)
    {&avx512::kernels, has_avx512},
    {&avx2::kernels, has_avx2},
    {&sse2::kernels, always},
#elif defined(__aarch64__) || defined(_M_ARM64)
    {&neon::kernels, always},
#else
    {&generic::kernels, always},
#endif
};

const Implementation& best() {
  const Implementation* implementation = implementations;
  while (!implementation->supported()) ++implementation;
  return *implementation;
}

std::atomic<const Implementation*> active = &best();

}  // namespace

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const Implementation& implementation : implementations)
    if (implementation.supported()) names.emplace_back(implementation.kernels->name);
  return names;
}

std::string kernel_name() { return kernels().name; }
const KernelTable& kernels() { return *active.load(std::memory_order_relaxed)->kernels; }

void select(std::string_view name) {
  bool known = false;
  for (const Implementation& implementation : implementations) {
    if (name != implementation.kernels->name) continue;
    known = true;
    if (implementation.supported()) {
      active = &implementation;
      return;
    }
  }
  std::string message = "kernel: expected one of";
  for (const std::string& choice : kernel_names()) message += " '" + choice + "'";
  message += ", got '" + std::string(name) + "'";
  if (known) message += ", which this CPU lacks";
  throw std::invalid_argument(message);
}

void select_from_environment() {
  const char* name = std::getenv("RMSPROP_FAST_KERNEL");
  if (!name || !*name) return;
  try {
    select(name);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(std::string("environment variable RMSPROP_FAST_KERNEL: ") + error.what());
  }
}

}  // namespace rmsprop_fast::dispatch
