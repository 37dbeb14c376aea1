// What a kernel is: the leaf it works on, its signature, and the table that one instruction set offers.
//
// Plain data only: this header is compiled for every instruction set, and an inline function in it could end up as the
// AVX-512 copy for everyone.
#pragma once

#include <cstddef>

#include "hyper.hpp"

namespace rmsprop_fast {

enum class Element { float32, float64, float16, bfloat16 };
constexpr int element_types = 4;

// One parameter array with all that belongs to it. The arrays are dense, share one memory order and do not overlap, so
// a kernel sees them as `size` elements in a row. Null: this state has no such array.
//
// p and g are of their element types; the other arrays are of the compute type, float64 for float64 and float32 else.
struct Leaf {
  void* p = nullptr;         // parameters, updated in place
  const void* g = nullptr;   // gradients
  void* s = nullptr;         // running mean of the squared gradient, or its variance with `m`; updated in place
  void* m = nullptr;         // centered: running mean of the gradient, updated in place
  void* b = nullptr;         // momentum buffer, updated in place
  const void* lr = nullptr;  // learning rates of each element; null: `lr_number` is everybody's
  double lr_number = 0;
  std::size_t size = 0;
  Element element = Element::float32;
  Element grad_element = Element::float32;
  const Hyper* hyper = nullptr;  // may be those of many leaves
  double rho_t = 0;              // what stands for rho in the step to come
};

// Updates the elements [begin, end) of a leaf, the gradients of which it multiplies by `multiplier` first.
using Kernel = void (*)(const Leaf& leaf, double multiplier, std::size_t begin, std::size_t end);

// What the gradients [begin, end) of a leaf come to.
using Reduction = double (*)(const Leaf& leaf, std::size_t begin, std::size_t end);

// What a kernel does, as bits that are added: which arrays it works on, and which of the options it obeys.
namespace variant {
constexpr int options = 1;         // the multiplier, clip_value and eps_inside_sqrt
constexpr int l2 = 2;              // with options: weight decay of one kind
constexpr int decoupled = 4;       //               or the other
constexpr int lr_per_element = 8;  // with options
constexpr int centered = 16;
constexpr int momentum = 32;
constexpr int nesterov = 64;  // with momentum
constexpr int count = 128;

constexpr bool exists(int with) {
  if (with & (l2 | decoupled | lr_per_element) && !(with & options)) return false;
  if (with & nesterov && !(with & momentum)) return false;
  return !(with & l2 && with & decoupled);
}
}  // namespace variant

// The kernels of one instruction set. Null: no kernel for parameters and gradients of these types.
struct KernelTable {
  const char* name;
  Kernel update[element_types][element_types][variant::count];  // [parameters][gradients][variant]
  Reduction sum_of_squares[element_types];
  Reduction largest[element_types];  // of the absolute values; NaN if there is one
  // What bounds an update of float32; with passes over the elements in the place of the multiplier.
  Kernel move_streams, divide_and_root;
};

namespace avx512 {
extern const KernelTable kernels;
}
namespace avx2 {
extern const KernelTable kernels;
}
namespace sse2 {
extern const KernelTable kernels;
}
namespace neon {
extern const KernelTable kernels;
}
namespace generic {
extern const KernelTable kernels;
}

}  // namespace rmsprop_fast
