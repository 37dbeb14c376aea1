#include "hyper.hpp"

#include <cmath>
#include <cstddef>
#include <iterator>

#include "kernel.hpp"

namespace rmsprop_fast {

void derive(Hyper& hyper) {
  const bool clips_norm = hyper.clip_norm != no_limit || hyper.clip_global_norm != no_limit;
  hyper.needs_gradient = clips_norm || hyper.skip_nonfinite;
  hyper.unclipped_multiplier = multiplier_of(hyper, 1);
  hyper.is_compact =
      hyper.state_dtype != StateDtype::compute_type || hyper.rounding != Rounding::nearest || hyper.low_bits > 0;
  hyper.kept = 0;
  for (std::size_t i = 0; i < std::size(kept_arrays); ++i)
    if (kept_arrays[i].is_used(hyper)) hyper.kept |= 1u << i;

  hyper.variant = hyper.nesterov ? variant::nesterov : 0;
  if (hyper.weight_decay != 0) hyper.variant |= hyper.decoupled ? variant::decoupled : variant::l2;
  if (clips_norm || hyper.unclipped_multiplier != 1 || hyper.clip_value != no_limit || hyper.weight_decay != 0 ||
      hyper.eps_inside_sqrt)
    hyper.variant |= variant::options;
}

double multiplier_of(const Hyper& hyper, double clipped) {
  return (hyper.maximize ? -clipped : clipped) / hyper.grad_scale;
}

double rho_in_step(const Hyper& hyper, double t) {
  if (!hyper.bias_correction) return hyper.rho;
  const double power = std::pow(hyper.rho, t);
  return (hyper.rho - power) / (1 - power);
}

}  // namespace rmsprop_fast
