// What a kernel is: the leaf it works on, its signature, and the table that one instruction set offers.
//
// Plain data only: this header is compiled for every instruction set, and an inline function in it could end up as the
// AVX-512 copy for everyone.
#pragma once

#include <cstddef>

#include "hyper.hpp"

namespace rmsprop_fast {

enum class Element { float32, float64 };

// One parameter array with all that belongs to it. The arrays are dense, share one memory order and do not overlap, so
// a kernel sees them as `size` elements in a row.
struct Leaf {
  void* p = nullptr;         // parameters, updated in place
  const void* g = nullptr;   // gradients
  void* s = nullptr;         // running mean of the squared gradient, updated in place
  const void* lr = nullptr;  // learning rates of each element, or null: then `lr_number` is everybody's
  double lr_number = 0;
  std::size_t size = 0;
  Element element = Element::float32;
};

// Updates the elements [begin, end) of a leaf.
using Kernel = void (*)(const Leaf& leaf, const Hyper& hyper, std::size_t begin, std::size_t end);

// The kernels of one instruction set: update[element][leaf has learning rates of each element].
struct KernelTable {
  const char* name;
  Kernel update[2][2];
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
