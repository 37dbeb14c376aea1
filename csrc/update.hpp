// The update of one element: the only arithmetic of the package, written once; for kernel.cpp alone.
//
// Every operation is rounded once, in the compute type, in the order of rmsprop_fast.reference.
#pragma once

#include <math.h>

#include "kernel.hpp"

namespace rmsprop_fast::RMSPROP_FAST_ISA {
namespace {

inline float square_root(float x) { return sqrtf(x); }
inline double square_root(double x) { return sqrt(x); }

// The hyper-parameters of a step: computed in double and rounded once, here.
template <class Real>
struct Rounded {
  Rounded(const Hyper& hyper, const Factors& factors)
      : multiplier(static_cast<Real>(factors.multiplier)),
        clip_value(static_cast<Real>(hyper.clip_value)),
        weight_decay(static_cast<Real>(hyper.weight_decay)),
        rho(static_cast<Real>(factors.rho)),
        one_minus_rho(static_cast<Real>(1 - factors.rho)),
        rho_one_minus_rho(static_cast<Real>(factors.rho * (1 - factors.rho))),
        eps(static_cast<Real>(hyper.eps)),
        eps_inside(hyper.eps_inside_sqrt ? eps : 0),
        eps_outside(hyper.eps_inside_sqrt ? 0 : eps),
        momentum(static_cast<Real>(hyper.momentum)) {}

  Real multiplier, clip_value, weight_decay;
  Real rho, one_minus_rho, rho_one_minus_rho;
  Real eps, eps_inside, eps_outside;
  Real momentum;
};

// The gradient of a parameter as it is used.
template <int with, class Real>
inline Real prepared(Real g, [[maybe_unused]] Real p, [[maybe_unused]] const Rounded<Real>& h) {
  if constexpr (with & variant::options) {
    g = h.multiplier * g;
    g = h.clip_value < g ? h.clip_value : g;  // in this order each is one instruction, and NaN stays
    g = -h.clip_value > g ? -h.clip_value : g;
  }
  if constexpr (with & variant::l2) g = g + h.weight_decay * p;
  return g;
}

// What a step makes of the running means, of which the last one is there if centered.
template <int with, class Real>
inline void update_means(Real g, Real& s, [[maybe_unused]] Real& m, const Rounded<Real>& h) {
  if constexpr (with & variant::centered) {
    s = h.rho * s + h.rho_one_minus_rho * ((g - m) * (g - m));
    m = h.rho * m + h.one_minus_rho * g;
  } else {
    s = h.rho * s + h.one_minus_rho * (g * g);
  }
}

// And of the parameter and its momentum buffer. lr is inside the momentum buffer or outside; where it is not, there
// is 1.
template <int with, class Real>
inline void update_parameter(Real& p, Real g, Real s, [[maybe_unused]] Real& b, [[maybe_unused]] Real lr,
                             Real lr_inside, [[maybe_unused]] Real lr_outside, const Rounded<Real>& h) {
  if constexpr (with & variant::decoupled) p = p - lr * h.weight_decay * p;

  Real step_size;
  if constexpr (with & variant::options) {
    step_size = lr_inside / (square_root(s + h.eps_inside) + h.eps_outside);
  } else {
    step_size = lr_inside / (square_root(s) + h.eps);
  }

  if constexpr (with & variant::momentum) {
    b = h.momentum * b + step_size * g;
    p = p - lr_outside * (with & variant::nesterov ? step_size * g + h.momentum * b : b);
  } else {
    p = p - step_size * g;
  }
}

}  // namespace
}  // namespace rmsprop_fast::RMSPROP_FAST_ISA
