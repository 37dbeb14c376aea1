// The hyper-parameters of a step, plain data. `lr` is not here: it may differ from leaf to leaf, see kernel.hpp.
#pragma once

namespace rmsprop_fast {

struct Hyper {
  double rho;
  double eps;
};

}  // namespace rmsprop_fast
