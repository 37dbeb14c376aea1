#include "tensors.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "dispatch.hpp"
#include "dlpack.hpp"

namespace rmsprop_fast {
namespace {

struct Torch {
  PyTypeObject* tensor_type;
  const dlpack::ExchangeApi* api;
};

Torch find() {
  const py::type tensor_type = py::module_::import("torch").attr("Tensor");
  const py::capsule capsule = tensor_type.attr("__dlpack_c_exchange_api__");
  const auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::capsule_name));
  if (!api) throw py::error_already_set();
  while (api && api->version.major != dlpack::major_version) api = api->previous;
  if (!api) throw std::runtime_error("torch: expected version 1 of DLPack's exchange API, got none of it");
  return {reinterpret_cast<PyTypeObject*>(py::type(tensor_type).release().ptr()), api};
}

const Torch& torch() {
  static const auto* const found = new Torch(find());  // for as long as the process lives
  return *found;
}

std::optional<Element> element_of(dlpack::DataType type) {
  if (type.lanes != 1) return std::nullopt;
  if (type.code == dlpack::code_bfloat && type.bits == 16) return Element::bfloat16;
  if (type.code != dlpack::code_float) return std::nullopt;
  if (type.bits == 64) return Element::float64;
  if (type.bits == 32) return Element::float32;
  if (type.bits == 16) return Element::float16;
  return std::nullopt;
}

// Nothing: no tensor on the CPU that is laid out by strides.
std::optional<dlpack::Tensor> look_at(const py::object& tensor) {
  const Torch& known = torch();
  if (!tensor || !PyObject_TypeCheck(tensor.ptr(), known.tensor_type)) return std::nullopt;
  dlpack::Tensor at{};
  if (known.api->tensor_from_object(tensor.ptr(), &at) != 0) {
    PyErr_Clear();
    return std::nullopt;
  }
  if (at.device.type != dlpack::cpu || (at.ndim > 0 && !at.strides)) return std::nullopt;
  return at;
}

// A leaf with parameters like these and StateDtype::uint8.
Leaf coded_leaf(const py::object& params) {
  static const Hyper hyper = [] {
    Hyper made;
    made.state_dtype = StateDtype::uint8;
    return made;
  }();
  const auto view = view_of(params);
  if (!view || misfit(*view) || view->element == Element::float64)
    throw py::value_error("codes: expected a dense tensor of parameters that are computed in float32");
  return {.size = size_of(*view), .blocks = block_layout(*view), .element = view->element, .hyper = &hyper};
}

// And the memory of its codes, signed or not, and of the numbers that they stand for.
struct Coded {
  Coded(const py::object& params, const py::object& numbers_, const py::object& codes, bool is_signed)
      : leaf(coded_leaf(params)), member(is_signed ? &Leaf::m : &Leaf::s) {
    const auto like = view_of(params), view = view_of(numbers_);
    const auto memory = packed_memory(codes, kept_arrays[0], leaf, *like);
    if (!view || !memory || misfit(*like, first_kept, *view))
      throw py::value_error("codes: expected tensors of float32 and of codes that fit the parameters");
    leaf.*member = *memory;
    numbers = static_cast<float*>(view->data);
  }

  Leaf leaf;
  void* Leaf::* member;
  float* numbers;
};

}  // namespace

bool is_tensor(const py::object& object) { return object && PyObject_TypeCheck(object.ptr(), torch().tensor_type); }

std::optional<View> view_of(const py::object& tensor) {
  const auto at = look_at(tensor);
  const auto element = at ? element_of(at->dtype) : std::nullopt;
  if (!element) return std::nullopt;
  const auto axes = static_cast<std::size_t>(at->ndim);
  const View view{.data = at->data ? static_cast<char*>(at->data) + at->byte_offset : nullptr,
                  .element = *element,
                  .shape = {at->shape, axes},
                  .strides = {at->strides, axes},
                  .stride_unit = static_cast<std::int64_t>(size_of(*element))};
  return at->data || size_of(view) == 0 ? std::optional(view) : std::nullopt;
}

std::optional<Integers> integers_of(const py::object& tensor) {
  const auto at = look_at(tensor);
  if (!at || at->dtype.code != dlpack::code_int || at->dtype.bits != 64 || at->dtype.lanes != 1) return std::nullopt;
  const auto axes = static_cast<std::size_t>(at->ndim);
  return Integers{reinterpret_cast<std::int64_t*>(static_cast<char*>(at->data) + at->byte_offset),
                  {at->shape, axes},
                  {at->strides, axes}};
}

std::size_t code_bytes(const py::object& params) { return bytes_of(kept_arrays[0], coded_leaf(params)); }

void pack_codes(const py::object& params, const py::object& numbers, const py::object& codes, bool is_signed) {
  const Coded coded(params, numbers, codes, is_signed);
  dispatch::kernels().pack(coded.leaf, coded.member, coded.numbers);
}

void unpack_codes(const py::object& params, const py::object& codes, const py::object& numbers, bool is_signed) {
  const Coded coded(params, numbers, codes, is_signed);
  dispatch::kernels().unpack(coded.leaf, coded.member, coded.numbers);
}

std::optional<void*> packed_memory(const py::object& tensor, const KeptArray& kept, const Leaf& leaf,
                                   const View& params) {
  const bool is_low = kept.member == &Leaf::low;
  if (is_low && leaf.element != Element::bfloat16) return nullptr;
  const bool is_half = !is_low && leaf.hyper->state_dtype == StateDtype::bfloat16;
  const int bits = is_low ? leaf.hyper->low_bits : is_half ? 16 : 8;
  const auto code = is_half ? dlpack::code_bfloat : bits == 16 ? dlpack::code_int : dlpack::code_uint;
  const auto at = look_at(tensor);
  if (!at || at->dtype.code != code || at->dtype.bits != bits || at->dtype.lanes != 1) return std::nullopt;
  const auto axes = static_cast<std::size_t>(at->ndim);
  const Numbers shape{at->shape, axes}, strides{at->strides, axes};
  void* const data = at->data ? static_cast<char*>(at->data) + at->byte_offset : nullptr;
  if (!is_low && !is_half) {
    const bool fits = axes == 1 && shape[0] == static_cast<std::int64_t>(bytes_of(kept, leaf)) && strides[0] == 1;
    return fits ? std::optional(data) : std::nullopt;
  }
  const View view{.data = data, .element = Element::bfloat16, .shape = shape, .strides = strides, .stride_unit = 2};
  const bool fits = has_shape(view, params.shape) && has_order(view, params) && (bits == 8 || is_aligned(view));
  return fits ? std::optional(data) : std::nullopt;
}

std::optional<std::size_t> span_of(const View& view) {
  std::vector<std::pair<std::int64_t, std::int64_t>> axes;  // strides and lengths
  for (std::size_t axis = 0; axis < view.shape.size(); ++axis)
    if (view.shape[axis] != 1) axes.emplace_back(view.strides[axis], view.shape[axis]);
  std::sort(axes.begin(), axes.end());
  std::int64_t span = 1;
  for (const auto& [stride, length] : axes) {
    if (stride < span) return std::nullopt;
    span += stride * (length - 1);
  }
  return static_cast<std::size_t>(span);
}

void copy(const View& from, const View& to) {
  const auto copy_axis = [&](const auto& self, std::size_t axis, const char* source, char* target) -> void {
    if (axis == from.shape.size()) {
      std::memcpy(target, source, size_of(from.element));
      return;
    }
    for (std::int64_t i = 0; i < from.shape[axis]; ++i)
      self(self, axis + 1, source + i * from.strides[axis] * from.stride_unit,
           target + i * to.strides[axis] * to.stride_unit);
  };
  copy_axis(copy_axis, 0, static_cast<const char*>(from.data), static_cast<char*>(to.data));
}

std::optional<std::string> misfit(const std::string& part, const py::object& tensor, const py::object& like) {
  const auto view = view_of(tensor), params = view_of(like);
  if (!view || !params) return "memory";
  if (part == "param" && !is_dense(*view)) return span_of(*view) ? "gaps" : "overlap";
  const auto why = part == "param"    ? misfit(*view)
                   : part == "step"   ? misfit_of_count(*view)
                   : part == "by_row" ? misfit_by_row(*params, *view)
                                      : misfit(*params, part == "grad" ? grads : first_kept, *view);
  constexpr const char* words[] = {"element", "shape", "order", "address", "read_only"};  // in the order of Why
  return why ? std::optional(words[static_cast<int>(*why)]) : std::nullopt;
}

}  // namespace rmsprop_fast
