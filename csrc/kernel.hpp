// What a kernel is: its signature, its variants, and the table that one instruction set offers.
//
// Plain data only: this header is compiled for every instruction set, and an inline function in it could end up as the
// AVX-512 copy for everyone.
#pragma once

#include <cstddef>

#include "leaf.hpp"

namespace rmsprop_fast {

// What a step asks of a kernel besides the hyper-parameters of the leaf.
struct Factors {
  double multiplier;  // of the gradients
  double rho;         // what stands for rho in this step
};

// Arrays that are not in their compute type pass through tiles of this many elements, few enough for the processor to
// convert one tile while it still computes another. Work is cut at multiples of it.
constexpr std::size_t tile_size = 128;

// Updates the elements [begin, end) of a leaf; if rowwise, whole rows.
using Kernel = void (*)(const Leaf& leaf, const Factors& factors, std::size_t begin, std::size_t end);

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
constexpr int rowwise = 128;  // with options, and not centered
constexpr int count = 256;

constexpr bool exists(int with) {
  if (with & (l2 | decoupled | lr_per_element) && !(with & options)) return false;
  if (with & nesterov && !(with & momentum)) return false;
  if (with & rowwise && (!(with & options) || with & centered)) return false;
  return !(with & l2 && with & decoupled);
}
}  // namespace variant

// Rounds numbers to nearest into compact means of a leaf, s, m or b, and the way back. Numbers that came that way get
// their old codes.
using Pack = void (*)(const Leaf& leaf, void* Leaf::* means, const float* numbers);
using Unpack = void (*)(const Leaf& leaf, void* Leaf::* means, float* numbers);

// Multiplies numbers of the compute type.
using Scale = void (*)(void* values, double factor, std::size_t size);

// The kernels of one instruction set, by compute type. Null: no such variant.
struct KernelTable {
  const char* name;
  Kernel update[compute_types][variant::count];
  Kernel update_compact[variant::count];  // of float32, where Hyper::is_compact; not rowwise
  Pack pack;
  Unpack unpack;
  Reduction sum_of_squares[compute_types];
  Reduction largest[compute_types];  // of the absolute values; NaN if there is one
  Scale scale[compute_types];
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
