// The update: the only arithmetic of the package, written once.
//
// CMake compiles this file once per instruction set (RMSPROP_FAST_ISA names it), and the compiler vectorises the loop.
// Every operation is rounded once, in the element's type, in the order of rmsprop_fast.reference: CMakeLists.txt turns
// contraction (FMA) off. Everything but the table is local to the file, and the C++ standard library stays out.
#include "kernel.hpp"

#include <math.h>

#ifdef _MSC_VER
#pragma fp_contract(off)
#endif

namespace rmsprop_fast::RMSPROP_FAST_ISA {
namespace {

inline float square_root(float x) { return sqrtf(x); }
inline double square_root(double x) { return sqrt(x); }

template <class Real, bool lr_per_element>
void update(const Leaf& leaf, const Hyper& hyper, std::size_t begin, std::size_t end) {
  Real* __restrict p = static_cast<Real*>(leaf.p);
  Real* __restrict s = static_cast<Real*>(leaf.s);
  const Real* __restrict g = static_cast<const Real*>(leaf.g);
  const Real* __restrict lr = static_cast<const Real*>(leaf.lr);
  const Real lr_number = static_cast<Real>(leaf.lr_number);
  const Real rho = static_cast<Real>(hyper.rho);
  const Real one_minus_rho = static_cast<Real>(1 - hyper.rho);
  const Real eps = static_cast<Real>(hyper.eps);

  for (std::size_t i = begin; i < end; ++i) {
    s[i] = rho * s[i] + one_minus_rho * (g[i] * g[i]);
    const Real step_size = (lr_per_element ? lr[i] : lr_number) / (square_root(s[i]) + eps);
    p[i] = p[i] - step_size * g[i];
  }
}

}  // namespace

const KernelTable kernels = {{
    {update<float, false>, update<float, true>},
    {update<double, false>, update<double, true>},
}};

}  // namespace rmsprop_fast::RMSPROP_FAST_ISA
