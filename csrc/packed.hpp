// Arrays that are kept in other types than the compute type: means of 16 or 8 bits, and low_order_bits.
#pragma once

#include <pybind11/numpy.h>

#include "arrays.hpp"

namespace rmsprop_fast {

// Throws unless such arrays can be kept for parameters in these layouts.
void require_packable(const Hyper& hyper, const Tree& tree, const std::vector<Layout>& layouts);

// How the memory of such an array lies, and the name of its dtype: low_order_bits as their parameter, others one byte
// after another. Nothing: the leaf has none.
struct PackedLayout {
  Layout layout;
  const char* dtype;
};
std::optional<PackedLayout> packed_layout(const KeptArray& kept, const Leaf& leaf, const Layout& params);

// As Python sees such an array: low_order_bits live; means as `numbers` of the compute type, which are filled.
py::object unpacked(const KeptArray& kept, const Leaf& leaf, const py::object& packed, const py::object& numbers);

// Rounds numbers of the compute type to the nearest that can be kept.
void pack(const KeptArray& kept, const Leaf& leaf, const py::object& packed, const py::object& numbers);

// Throws unless these can be assigned to low_order_bits.
void require_low_order_bits(py::handle array, const std::optional<PackedLayout>& expected, const Name& name);

}  // namespace rmsprop_fast
