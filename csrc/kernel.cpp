// The update: the only arithmetic of the package, written once.
//
// CMake compiles this file once per instruction set (RMSPROP_FAST_ISA names it), and the compiler vectorises the loop.
// Every operation is rounded once, in the element's type, in the order of rmsprop_fast.reference: CMakeLists.txt turns
// contraction (FMA) off. Everything but the table is local to the file, and the C++ standard library stays out.
#include "kernel.hpp"

#include <float.h>
#include <math.h>

static_assert(FLT_EVAL_METHOD == 0, "each operation must be rounded to its own type");

#ifdef _MSC_VER
#pragma fp_contract(off)
#endif

namespace rmsprop_fast::RMSPROP_FAST_ISA {
namespace {

inline float square_root(float x) { return sqrtf(x); }
inline double square_root(double x) { return sqrt(x); }

template <class Real, class LearningRate>
void update(Real* __restrict params, const Real* __restrict grads, Real* __restrict means, LearningRate lr, Real rho,
            Real one_minus_rho, Real eps, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    const Real g = grads[i];
    const Real s = rho * means[i] + one_minus_rho * (g * g);
    const Real step_size = lr[i] / (square_root(s) + eps);
    params[i] = params[i] - step_size * g;
    means[i] = s;
  }
}

// One number for every element.
template <class Real>
struct Everywhere {
  Real number;
  Real operator[](std::size_t) const { return number; }
};

// Hyper-parameters are computed in double and rounded once, here.
template <class Real, bool lr_per_element>
void update_leaf(const Leaf& leaf, const Hyper& hyper, std::size_t begin, std::size_t end) {
  Real* p = static_cast<Real*>(leaf.p) + begin;
  const Real* g = static_cast<const Real*>(leaf.g) + begin;
  Real* s = static_cast<Real*>(leaf.s) + begin;
  const Real rho = static_cast<Real>(hyper.rho);
  const Real one_minus_rho = static_cast<Real>(1 - hyper.rho);
  const Real eps = static_cast<Real>(hyper.eps);
  if constexpr (lr_per_element) {
    const Real* __restrict lr = static_cast<const Real*>(leaf.lr) + begin;
    update(p, g, s, lr, rho, one_minus_rho, eps, end - begin);
  } else {
    const Everywhere<Real> lr{static_cast<Real>(leaf.lr_number)};
    update(p, g, s, lr, rho, one_minus_rho, eps, end - begin);
  }
}

}  // namespace

const KernelTable kernels = {RMSPROP_FAST_ISA_NAME,
                             {
                                 {update_leaf<float, false>, update_leaf<float, true>},
                                 {update_leaf<double, false>, update_leaf<double, true>},
                             }};

}  // namespace rmsprop_fast::RMSPROP_FAST_ISA
