// The hyper-parameters of a step, plain data. `lr` may differ from leaf to leaf, see kernel.hpp.
#pragma once

#include <math.h>

namespace rmsprop_fast {

constexpr double no_limit = HUGE_VAL;

// What becomes of the rows that a sparse gradient does not have: they stay as they are; they take a step with a
// gradient of zeros; or they do so when they are next touched.
enum class Lazy { rows, dense, catch_up };

// What s, or variance and grad_avg, and momentum_buffer are kept in.
enum class StateDtype { compute_type, bfloat16, uint8 };

// To the nearest, or up and down so often that the mean is right.
enum class Rounding { nearest, stochastic };

// The names and defaults are those of Python; options.cpp explains them.
struct Hyper {
  double lr = 0.01;
  double rho = 0.999;
  double eps = 1e-8;
  double momentum = 0;
  bool nesterov = false;
  bool lr_in_momentum = false;
  bool centered = false;
  bool eps_inside_sqrt = false;
  double initial_s = 0;
  bool bias_correction = false;
  double weight_decay = 0;
  bool decoupled = false;
  bool maximize = false;
  double grad_scale = 1;
  double clip_value = no_limit;
  double clip_norm = no_limit;
  double clip_global_norm = no_limit;
  bool skip_nonfinite = false;
  Lazy lazy = Lazy::rows;
  bool rowwise = false;
  StateDtype state_dtype = StateDtype::compute_type;
  Rounding rounding = Rounding::nearest;
  int low_bits = 0;

  // What follows from these, by derive().
  int variant = 0;              // of the kernels, as far as all leaves have it in common
  unsigned kept = 0;            // a bit for each array of the table that is used, see leaf.hpp
  bool needs_gradient = false;  // must a step look at the whole gradient before it changes anything?
  bool is_compact = false;      // does a step of float32 numbers take the kernels for compact ones?
  double unclipped_multiplier = 1;
};

// Works out what follows from the hyper-parameters, once they are set.
void derive(Hyper& hyper);

// What gradients are multiplied by, if clipping by a norm asks for the factor `clipped`.
double multiplier_of(const Hyper& hyper, double clipped);

// What stands for rho in step t, counted from 1: see bias_correction.
double rho_in_step(const Hyper& hyper, double t);

}  // namespace rmsprop_fast
