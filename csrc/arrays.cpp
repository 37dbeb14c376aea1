#include "arrays.hpp"

#include <pybind11/stl.h>

#include <bit>

namespace rmsprop_fast {
namespace {

// NumPy's numbers for the element types, in their order.
constexpr int npy_half = 23;      // which pybind11 does not name
constexpr int not_imported = -1;  // bfloat16 is of ml_dtypes; until somebody imports that, there are no such arrays
int type_numbers[] = {py::detail::npy_api::NPY_FLOAT_, py::detail::npy_api::NPY_DOUBLE_, npy_half, not_imported};

void find_bfloat16() {
  int& number = type_numbers[static_cast<int>(Element::bfloat16)];
  if (number != not_imported) return;
  const auto name = py::str("ml_dtypes");
  const auto module = py::reinterpret_steal<py::object>(PyImport_GetModule(name.ptr()));
  if (module && py::hasattr(module, "bfloat16")) number = py::dtype::from_args(module.attr("bfloat16")).num();
}

// In native byte order, too.
inline bool has_element(py::handle array, Element element) {
  constexpr char native = std::endian::native == std::endian::little ? '<' : '>';
  const auto* descriptor = py::detail::array_descriptor_proxy(array_of(array).descr);
  return descriptor->type_num == type_numbers[static_cast<int>(element)] &&
         (descriptor->byteorder == '=' || descriptor->byteorder == native);
}

constexpr Element all_elements[] = {Element::float32, Element::float64, Element::float16, Element::bfloat16};

// The types that an array may have as that part of a leaf.
std::string types_of(const View& like, std::size_t part) {
  std::string types;
  for (const Element element : all_elements)
    if (takes(like, part, element)) types += std::string(types.empty() ? "" : " or ") + type_of(element).name;
  return types;
}

std::string text(py::handle object) { return py::str(object); }

// An array of type `element`, or else of one that is refused.
[[noreturn]] void refuse(Why why, py::handle array, const View& like, std::size_t part, Element element,
                         const Name& name) {
  const std::string words = name() + ": expected ";
  if (why == Why::read_only) throw py::value_error(words + "a writeable array, got a read-only one");
  if (why == Why::address)
    throw py::value_error(words + "memory aligned to " + std::to_string(size_of(element)) + " bytes, got address " +
                          std::to_string(reinterpret_cast<std::uintptr_t>(array_of(array).data)));
  if (why == Why::order)
    throw py::value_error(words + "strides " + tuple_text(in_bytes(like.strides, element)) + " as in the state, got " +
                          text(array.attr("strides")));
  const std::string types = why == Why::element ? types_of(like, part) : type_of(element).name;
  const std::string message = words + types + " of shape " + tuple_text(like.shape) + ", got " + describe(array);
  if (why == Why::shape) throw py::value_error(message);
  throw py::type_error(message);
}

}  // namespace

std::string tuple_text(Numbers numbers) {
  return text(py::tuple(py::cast(std::vector<std::int64_t>(numbers.begin(), numbers.end()))));
}

std::string describe(py::handle array) { return text(array.attr("dtype")) + " of shape " + text(array.attr("shape")); }

void require_array(py::handle object, const Name& name) {
  const auto& numpy = py::detail::npy_api::get();
  if (Py_TYPE(object.ptr()) == numpy.PyArray_Type_) return;
  if (!numpy.PyArray_Check_(object.ptr()))
    throw py::type_error(name() + ": expected a NumPy array, got " + Py_TYPE(object.ptr())->tp_name);
  if (is_masked(object))
    throw py::type_error(name() + ": expected a NumPy array without a mask, got " + Py_TYPE(object.ptr())->tp_name);
}

py::object as_array(py::handle object, const Layout& layout, Element element, const Name& name) {
  if (!layout.shape.empty() || py::isinstance<py::array>(object)) return py::reinterpret_borrow<py::object>(object);
  const double number = require_number(object, Range::any, element, name());
  return quiet_numpy("array")(number, py::dtype(type_numbers[static_cast<int>(element)]));
}

std::optional<Element> element_of(py::handle array) {
  find_bfloat16();
  for (const Element element : all_elements)
    if (has_element(array, element)) return element;
  return std::nullopt;
}

View view_of(py::handle array, Element element) {
  const auto& proxy = array_of(array);
  const auto axes = static_cast<std::size_t>(proxy.nd);
  static_assert(sizeof(py::ssize_t) == sizeof(std::int64_t), "NumPy's numbers are of 64 bits");
  const auto numbers = [axes](const py::ssize_t* first) {
    return Numbers(reinterpret_cast<const std::int64_t*>(first), axes);  // which may be another type of 64 bits
  };
  return {.data = proxy.data,
          .element = element,
          .shape = numbers(proxy.dimensions),
          .strides = numbers(proxy.strides),
          .is_writeable = (proxy.flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0};
}

View view_of(const Layout& layout) {
  return {.element = layout.element,
          .shape = layout.shape,
          .strides = layout.strides,
          .stride_unit = static_cast<std::int64_t>(size_of(layout.element))};
}

std::vector<std::int64_t> in_bytes(Numbers strides, Element element) {
  std::vector<std::int64_t> bytes(strides.begin(), strides.end());
  for (std::int64_t& stride : bytes) stride *= static_cast<std::int64_t>(size_of(element));
  return bytes;
}

Memory require_fit(py::handle array, const View& like, std::size_t part, const Name& name) {
  if (Py_TYPE(array.ptr()) != py::detail::npy_api::get().PyArray_Type_) require_array(array, name);
  const Element expected = part < first_kept ? like.element : compute_type(like.element);
  const auto element = has_element(array, expected) ? expected : element_of(array);
  if (!element) refuse(Why::element, array, like, part, expected, name);
  const View view = view_of(array, *element);
  if (const auto why = misfit(like, part, view)) refuse(*why, array, like, part, *element, name);
  return {view.data, view.element};
}

Layout learn(py::handle array, const Name& name) {
  require_array(array, name);
  const auto element = element_of(array);
  if (!element)
    throw py::type_error(name() + ": expected float32, float64, float16 or bfloat16 in native byte order, got " +
                         describe(array));
  const View view = view_of(array, *element);
  Layout layout{*element, {view.shape.begin(), view.shape.end()}, {}, size_of(view)};
  for (const std::int64_t stride : view.strides)
    layout.strides.push_back(stride / static_cast<std::int64_t>(size_of(*element)));
  if (!is_dense(view))
    throw py::value_error(name() + ": expected dense memory, got " + describe(array) + " with strides " +
                          text(array.attr("strides")));
  require_fit(array, view_of(layout), params, name);
  return layout;
}

}  // namespace rmsprop_fast
