#include "buffers.hpp"

#include <pybind11/stl.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

namespace rmsprop_fast {
namespace {

// What an array is to a step.
enum class Role { params, grads, kept };

// A leaf's name, made only when a message needs it.
struct Name {
  const Tree& tree;
  const char* root;
  std::size_t leaf;

  std::string operator()() const { return tree.leaf_name(root, leaf); }
};

const py::detail::PyArray_Proxy& array_of(py::handle array) { return *py::detail::array_proxy(array.ptr()); }

// An element type: its name, and NumPy's number for it.
struct Type {
  Element element;
  const char* name;
  int number;
};
constexpr int npy_half = 23;      // which pybind11 does not name
constexpr int not_imported = -1;  // bfloat16 is of ml_dtypes; until somebody imports that, there are no such arrays
Type types[] = {{Element::float32, "float32", py::detail::npy_api::NPY_FLOAT_},
                {Element::float64, "float64", py::detail::npy_api::NPY_DOUBLE_},
                {Element::float16, "float16", npy_half},
                {Element::bfloat16, "bfloat16", not_imported}};

const Type& type_of(Element element) { return types[static_cast<int>(element)]; }

void find_bfloat16() {
  int& number = types[static_cast<int>(Element::bfloat16)].number;
  if (number != not_imported) return;
  const auto name = py::str("ml_dtypes");
  const auto module = py::reinterpret_steal<py::object>(PyImport_GetModule(name.ptr()));
  if (module && py::hasattr(module, "bfloat16")) number = py::dtype::from_args(module.attr("bfloat16")).num();
}

std::string text(py::handle object) { return py::str(object); }

std::string tuple_text(const std::vector<std::int64_t>& numbers) { return text(py::tuple(py::cast(numbers))); }

std::string describe(py::handle array) { return text(array.attr("dtype")) + " of shape " + text(array.attr("shape")); }

// An ndarray whose memory is all there is to it: a masked array has a mask that we would ignore.
void require_array(py::handle object, const Name& name) {
  const auto& numpy = py::detail::npy_api::get();
  if (Py_TYPE(object.ptr()) == numpy.PyArray_Type_) return;
  if (!numpy.PyArray_Check_(object.ptr()))
    throw py::type_error(name() + ": expected a NumPy array, got " + Py_TYPE(object.ptr())->tp_name);
  if (is_masked(object))
    throw py::type_error(name() + ": expected a NumPy array without a mask, got " + Py_TYPE(object.ptr())->tp_name);
}

// A number, as the gradient of a 0-d parameter, say, becomes an array of that type; anything else stays what it is.
py::object as_array(py::handle object, const Layout& layout, Element element, const Name& name) {
  if (!layout.shape.empty() || py::isinstance<py::array>(object)) return py::reinterpret_borrow<py::object>(object);
  const double number = require_number(object, Range::any, element, name());
  return quiet_numpy("array")(number, py::dtype(type_of(element).number));
}

// A loop, as std::equal would call the C library for a handful of numbers.
bool has_shape(py::handle array, const std::vector<std::int64_t>& shape) {
  const auto& proxy = array_of(array);
  if (static_cast<std::size_t>(proxy.nd) != shape.size()) return false;
  for (std::size_t axis = 0; axis < shape.size(); ++axis)
    if (proxy.dimensions[axis] != shape[axis]) return false;
  return true;
}

// In native byte order, too.
bool has_element(py::handle array, Element element) {
  constexpr char native = std::endian::native == std::endian::little ? '<' : '>';
  const auto* descriptor = py::detail::array_descriptor_proxy(array_of(array).descr);
  return descriptor->type_num == type_of(element).number &&
         (descriptor->byteorder == '=' || descriptor->byteorder == native);
}

// The type that an array must have in that role: gradients of float32 parameters may also be halves.
Element required_element(py::handle array, Element params, Role role) {
  if (role == Role::kept) return compute_type(params);
  if (role == Role::grads && params == Element::float32 && !has_element(array, params)) {
    find_bfloat16();
    for (const Element half : {Element::float16, Element::bfloat16})
      if (has_element(array, half)) return half;
  }
  return params;
}

void require_memory(py::handle array, Element element, Role role, const Name& name) {
  const auto& proxy = array_of(array);
  if (role != Role::grads && !(proxy.flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_))
    throw py::value_error(name() + ": expected a writeable array, got a read-only one");
  const std::size_t alignment = size_of(element);
  if (reinterpret_cast<std::uintptr_t>(proxy.data) & (alignment - 1))
    throw py::value_error(name() + ": expected memory aligned to " + std::to_string(alignment) +
                          " bytes, got address " + std::to_string(reinterpret_cast<std::uintptr_t>(proxy.data)));
}

Layout learn(py::handle array, const Name& name) {
  require_array(array, name);
  find_bfloat16();
  const Type* const type =
      std::find_if(std::begin(types), std::end(types), [&](const Type& t) { return has_element(array, t.element); });
  if (type == std::end(types))
    throw py::type_error(name() + ": expected float32, float64, float16 or bfloat16 in native byte order, got " +
                         describe(array));
  const auto& proxy = array_of(array);
  Layout layout{type->element, {proxy.dimensions, proxy.dimensions + proxy.nd}, {}, 1};
  for (const std::int64_t length : layout.shape) layout.size *= static_cast<std::size_t>(length);
  bool whole_elements = true;
  const auto bytes = static_cast<std::int64_t>(size_of(type->element));
  for (std::size_t axis = 0; axis < layout.shape.size(); ++axis) {
    layout.strides.push_back(proxy.strides[axis] / bytes);
    whole_elements &= layout.shape[axis] == 1 || proxy.strides[axis] % bytes == 0;
  }
  if (layout.size > 0 && !(whole_elements && is_dense(layout.shape, layout.strides)))
    throw py::value_error(name() + ": expected dense memory, got " + describe(array) + " with strides " +
                          text(array.attr("strides")));
  require_memory(array, type->element, Role::params, name);
  return layout;
}

std::vector<std::int64_t> in_bytes(const std::vector<std::int64_t>& strides, Element element) {
  std::vector<std::int64_t> bytes = strides;
  for (std::int64_t& stride : bytes) stride *= static_cast<std::int64_t>(size_of(element));
  return bytes;
}

struct Memory {
  char* address;
  Element element;
};

// The memory of an array that has this layout and is fit for the role. Strides of axes of length 1 do not count, nor
// any of an empty array.
Memory memory_of(py::handle array, const Layout& layout, Role role, const Name& name) {
  require_array(array, name);
  const auto& proxy = array_of(array);
  const Element element = required_element(array, layout.element, role);
  const bool right_element = has_element(array, element);
  if (!right_element || !has_shape(array, layout.shape)) {
    const std::string message = name() + ": expected " + type_of(element).name + " of shape " +
                                tuple_text(layout.shape) + ", got " + describe(array);
    if (right_element) throw py::value_error(message);
    throw py::type_error(message);
  }
  const auto bytes = static_cast<std::int64_t>(size_of(element));
  for (std::size_t axis = 0; layout.size > 0 && axis < layout.shape.size(); ++axis)
    if (layout.shape[axis] > 1 && proxy.strides[axis] != layout.strides[axis] * bytes)
      throw py::value_error(name() + ": expected strides " + tuple_text(in_bytes(layout.strides, element)) +
                            " as in the state, got " + text(array.attr("strides")));
  require_memory(array, element, role, name);
  return {proxy.data, element};
}

}  // namespace

Buffers::Buffers(py::handle params) : tree_(params, "params") {
  const Held held(&objects_);
  tree_.flatten(params, "params", objects_);
  for (std::size_t i = 0; i < tree_.leaf_nodes().size(); ++i) {
    layouts_.push_back(learn(objects_[tree_.leaf_nodes()[i]], {tree_, "params", i}));
    leaves_.push_back({.size = layouts_[i].size, .element = layouts_[i].element});
  }
}

void Buffers::keep(void* Leaf::* member, const char* name, double initial) {
  Kept kept{member, name, {}};
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    kept.arrays.push_back(zeros(i, kept_.size() + 1));
    if (initial != 0) kept.arrays[i].attr("fill")(initial);
  }
  kept_.push_back(std::move(kept));
}

// A view, so that nobody can resize it, of memory that the system clears when it is first touched.
//
// Large arrays from the system begin at one place of their pages, all of them, and so elements of one index compete for
// the same few lines of the cache: a centered step with momentum, of five arrays, is 15 % faster with the places apart
// (benchmarks/test_targets.py, test_family).
py::object Buffers::zeros(std::size_t leaf, std::size_t place) const {
  const Layout& layout = layouts_[leaf];
  const Element element = compute_type(layout.element);
  const auto numpy = py::module_::import("numpy");
  constexpr std::size_t large = 64 * 1024, apart = 13 * 64;  // elements; bytes, whole cache lines
  const std::size_t offset = layout.size >= large ? place * apart : 0;
  const auto memory = numpy.attr("zeros")(layout.size + offset / size_of(element), type_of(element).name);
  return numpy.attr("ndarray")(py::tuple(py::cast(layout.shape)), memory.attr("dtype"), memory, offset,
                               py::tuple(py::cast(in_bytes(layout.strides, element))));
}

const Buffers::Kept* Buffers::kept(std::string_view name) const {
  for (const Kept& kept : kept_)
    if (kept.name == name) return &kept;
  return nullptr;
}

void Buffers::restore(const Kept& kept, py::handle tree) const {
  std::vector<py::object> nodes;
  std::vector<py::array> copies;
  tree_.flatten(tree, kept.name, nodes);
  for (std::size_t i = 0; i < layouts_.size(); ++i)
    copies.push_back(
        copy(nodes[tree_.leaf_nodes()[i]], i, kept.name, kept.member == &Leaf::s ? Range::mean : Range::any));
  for (const bool writes : {false, true})
    for (std::size_t i = 0; i < layouts_.size(); ++i) {
      char* const address = memory_of(kept.arrays[i], layouts_[i], Role::kept, {tree_, kept.name, i}).address;
      if (writes) std::memcpy(address, copies[i].data(), static_cast<std::size_t>(copies[i].nbytes()));
    }
}

py::array Buffers::copy(py::handle given, std::size_t leaf, const char* root, Range range) const {
  const Name name{tree_, root, leaf};
  const Layout& layout = layouts_[leaf];
  const Element element = compute_type(layout.element);
  const py::object array = as_array(given, layout, element, name);
  require_array(array, name);
  if (!has_shape(array, layout.shape) || !has_real_numbers(array))
    throw py::value_error(name() + ": expected " + (range == Range::at_least_0 ? "a number or " : "") +
                          "real numbers of shape " + tuple_text(layout.shape) + ", got " + describe(array));
  py::array copy = zeros(leaf);
  quiet_numpy("copyto")(copy, array, "same_kind");  // what came out is looked at
  for (std::size_t k = 0; k < layout.size; ++k) {
    const bool is_double = element == Element::float64;
    const double number =
        is_double ? static_cast<const double*>(copy.data())[k] : static_cast<const float*>(copy.data())[k];
    if (!is_in(range, number, element)) require_number(py::float_(number), range, element, name());  // which throws
  }
  copy.attr("base").attr("setflags")(py::arg("write") = false);
  copy.attr("setflags")(py::arg("write") = false);
  return copy;
}

Element Buffers::narrowest() const {
  const auto is_float64 = [](const Layout& layout) { return layout.element == Element::float64; };
  return std::all_of(layouts_.begin(), layouts_.end(), is_float64) ? Element::float64 : Element::float32;
}

Buffers::Held Buffers::bind(py::handle params, py::handle grads) {
  // First all that may run Python code (a dict's keys may compare in Python), then all that looks at memory.
  Held held(&objects_);
  tree_.flatten(params, "params", objects_);
  tree_.flatten(grads, "grads", objects_);
  const auto* const ndarray = py::detail::npy_api::get().PyArray_Type_;
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    py::object& g = objects_[tree_.size() + tree_.leaf_nodes()[i]];
    if (Py_TYPE(g.ptr()) != ndarray && !g.is_none())
      g = as_array(g, layouts_[i], layouts_[i].element, {tree_, "grads", i});
  }

  bool same = std::exchange(disjoint_, false);
  std::size_t elements = 0;
  const auto update = [&same](auto& place, auto now) { same &= std::exchange(place, now) == now; };
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    const std::size_t node = tree_.leaf_nodes()[i];
    const Layout& layout = layouts_[i];
    Leaf& leaf = leaves_[i];
    update(leaf.p, memory_of(objects_[node], layout, Role::params, {tree_, "params", i}).address);
    const py::object& grad = objects_[tree_.size() + node];
    leaf.size = grad.is_none() ? 0 : layout.size;  // without a gradient, there is nothing to update
    elements += leaf.size;
    Memory g{nullptr, layout.element};
    if (!grad.is_none()) g = memory_of(grad, layout, Role::grads, {tree_, "grads", i});
    update(leaf.g, g.address);
    update(leaf.grad_element, g.element);
    for (const Kept& kept : kept_)
      update(leaf.*kept.member, memory_of(kept.arrays[i], layout, Role::kept, {tree_, kept.name, i}).address);
  }
  if (!same) require_no_overlap();
  disjoint_ = true;
  elements_ = elements;
  return held;
}

void Buffers::require_no_overlap() const {
  std::vector<Leaf> leaves = leaves_;  // also those without a gradient, as others must not write into them
  for (std::size_t i = 0; i < leaves.size(); ++i) leaves[i].size = layouts_[i].size;
  const auto overlap = find_overlap(leaves);
  if (!overlap) return;
  const auto name = [&](const Place& place) {
    const char* root = place.written ? "params" : "grads";
    for (const Kept& kept : kept_)
      if (kept.member == place.written) root = kept.name;
    return tree_.leaf_name(root, place.leaf);
  };
  throw py::value_error(name(overlap->first) + ": overlaps the memory of " + name(overlap->second) +
                        ", expected arrays apart from each other");
}

}  // namespace rmsprop_fast
