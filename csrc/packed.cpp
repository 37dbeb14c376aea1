#include "packed.hpp"

#include <algorithm>
#include <string>

#include "dispatch.hpp"

namespace rmsprop_fast {
namespace {

bool is_low(const KeptArray& kept) { return kept.member == &Leaf::low; }

void* memory_of(const py::object& array) { return array_of(array).data; }

// All of the leaf, whatever the last gradient had, with that array.
Leaf whole(Leaf leaf, const KeptArray& kept, const py::object& packed) {
  leaf.size = leaf.blocks.size;
  leaf.*kept.member = memory_of(packed);
  return leaf;
}

}  // namespace

void require_packable(const Hyper& hyper, const Tree& tree, const std::vector<Layout>& layouts) {
  const auto is_bfloat16 = [](const Layout& layout) { return layout.element == Element::bfloat16; };
  if (hyper.low_bits > 0 && std::none_of(layouts.begin(), layouts.end(), is_bfloat16))
    throw py::value_error("low_bits: expected 0 without bfloat16 parameters, got " + std::to_string(hyper.low_bits));
  for (std::size_t i = 0; hyper.state_dtype != StateDtype::compute_type && i < layouts.size(); ++i)
    if (layouts[i].element == Element::float64)
      throw py::type_error(tree.leaf_name("params", i) +
                           ": expected float32, float16 or bfloat16 with a state_dtype, got float64");
}

std::optional<PackedLayout> packed_layout(const KeptArray& kept, const Leaf& leaf, const Layout& params) {
  if (is_low(kept) && leaf.element != Element::bfloat16) return std::nullopt;
  if (is_low(kept)) return PackedLayout{params, leaf.hyper->low_bits == 8 ? "uint8" : "uint16"};
  const std::size_t bytes = bytes_of(kept, leaf);
  return PackedLayout{{leaf.element, {static_cast<std::int64_t>(bytes)}, {1}, bytes}, "uint8"};
}

py::object unpacked(const KeptArray& kept, const Leaf& leaf, const py::object& packed, const py::object& numbers) {
  if (packed.is_none()) return packed;
  if (is_low(kept)) return packed.attr("view")();
  dispatch::kernels().unpack(whole(leaf, kept, packed), kept.member, static_cast<float*>(memory_of(numbers)));
  numbers.attr("setflags")(py::arg("write") = false);
  return numbers;
}

void pack(const KeptArray& kept, const Leaf& leaf, const py::object& packed, const py::object& numbers) {
  dispatch::kernels().pack(whole(leaf, kept, packed), kept.member, static_cast<const float*>(memory_of(numbers)));
}

void require_low_order_bits(py::handle array, const std::optional<PackedLayout>& expected, const Name& name) {
  if (!expected) {
    if (!array.is_none())
      throw py::type_error(name() + ": expected None, as the parameter is not bfloat16, got " +
                           Py_TYPE(array.ptr())->tp_name);
    return;
  }
  require_array(array, name);
  const bool has_type = py::dtype(expected->dtype).equal(array.attr("dtype"));
  if (has_type && has_shape(view_of(array, Element::float32), expected->layout.shape)) return;
  const std::string message = name() + ": expected " + expected->dtype + " of shape " +
                              tuple_text(expected->layout.shape) + ", got " + describe(array);
  if (has_type) throw py::value_error(message);
  throw py::type_error(message);
}

}  // namespace rmsprop_fast
