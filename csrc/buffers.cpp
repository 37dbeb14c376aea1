#include "buffers.hpp"

#include <pybind11/stl.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

namespace rmsprop_fast {
namespace {

// A leaf's name, made only when a message needs it.
struct Name {
  const Tree& tree;
  const char* root;
  std::size_t leaf;

  std::string operator()() const { return tree.leaf_name(root, leaf); }
};

const py::detail::PyArray_Proxy& array_of(py::handle array) { return *py::detail::array_proxy(array.ptr()); }

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

std::string text(py::handle object) { return py::str(object); }

std::string tuple_text(Numbers numbers) {
  return text(py::tuple(py::cast(std::vector<std::int64_t>(numbers.begin(), numbers.end()))));
}

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
  return quiet_numpy("array")(number, py::dtype(type_numbers[static_cast<int>(element)]));
}

// In native byte order, too.
inline bool has_element(py::handle array, Element element) {
  constexpr char native = std::endian::native == std::endian::little ? '<' : '>';
  const auto* descriptor = py::detail::array_descriptor_proxy(array_of(array).descr);
  return descriptor->type_num == type_numbers[static_cast<int>(element)] &&
         (descriptor->byteorder == '=' || descriptor->byteorder == native);
}

constexpr Element all_elements[] = {Element::float32, Element::float64, Element::float16, Element::bfloat16};

// Nothing: none of ours.
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

// The types that an array may have as that part of a leaf.
std::string types_of(const View& like, std::size_t part) {
  std::string types;
  for (const Element element : all_elements)
    if (takes(like, part, element)) types += std::string(types.empty() ? "" : " or ") + type_of(element).name;
  return types;
}

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

struct Memory {
  void* data;
  Element element;
};

// The memory of an array that is fit for that part of a leaf with parameters like these.
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

}  // namespace

Buffers::Buffers(py::handle params) : tree_(params, "params") {
  const Held held(&objects_);
  tree_.flatten(params, "params", objects_);
  for (std::size_t i = 0; i < tree_.leaf_nodes().size(); ++i) {
    layouts_.push_back(learn(objects_[tree_.leaf_nodes()[i]], {tree_, "params", i}));
    leaves_.push_back({.size = layouts_[i].size, .element = layouts_[i].element});
  }
}

void Buffers::keep(const Hyper& hyper) {
  for (std::size_t row = 0; row < std::size(kept_arrays); ++row) {
    if (!kept_arrays[row].is_used(hyper)) continue;
    Kept kept{row, std::string("state.") + kept_arrays[row].name, {}};
    const double initial = kept_arrays[row].initial ? hyper.*kept_arrays[row].initial : 0;
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
      kept.arrays.push_back(zeros(i, kept_.size() + 1));
      if (initial != 0) kept.arrays[i].attr("fill")(initial);
    }
    kept_.push_back(std::move(kept));
  }
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
  tree_.flatten(tree, kept.name.c_str(), nodes);
  const Range range = kept_arrays[kept.row].member == &Leaf::s ? Range::mean : Range::any;
  for (std::size_t i = 0; i < layouts_.size(); ++i)
    copies.push_back(copy(nodes[tree_.leaf_nodes()[i]], i, kept.name.c_str(), range));
  for (const bool writes : {false, true})
    for (std::size_t i = 0; i < layouts_.size(); ++i) {
      const Name name{tree_, kept.name.c_str(), i};
      const Memory memory = require_fit(kept.arrays[i], view_of(layouts_[i]), first_kept + kept.row, name);
      if (writes) std::memcpy(memory.data, copies[i].data(), static_cast<std::size_t>(copies[i].nbytes()));
    }
}

py::array Buffers::copy(py::handle given, std::size_t leaf, const char* root, Range range) const {
  const Name name{tree_, root, leaf};
  const Layout& layout = layouts_[leaf];
  const Element element = compute_type(layout.element);
  const py::object array = as_array(given, layout, element, name);
  require_array(array, name);
  if (!has_shape(view_of(array, element), layout.shape) || !has_real_numbers(array))
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
    const View like = view_of(layouts_[i]);
    Leaf& leaf = leaves_[i];
    const Memory p = require_fit(objects_[node], like, Part::params, {tree_, "params", i});
    const py::object& grad = objects_[tree_.size() + node];
    Memory g{nullptr, like.element};
    if (!grad.is_none()) g = require_fit(grad, like, Part::grads, {tree_, "grads", i});
    leaf.size = grad.is_none() ? 0 : layouts_[i].size;  // without a gradient, there is nothing to update
    elements += leaf.size;
    update(leaf.p, p.data);
    update(leaf.g, static_cast<const void*>(g.data));
    update(leaf.grad_element, g.element);
    for (const Kept& kept : kept_) {
      const Name name{tree_, kept.name.c_str(), i};
      update(leaf.*kept_arrays[kept.row].member, require_fit(kept.arrays[i], like, first_kept + kept.row, name).data);
    }
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
    const char* root = place.part == Part::grads ? "grads" : "params";
    for (const Kept& kept : kept_)
      if (place.part == first_kept + kept.row) root = kept.name.c_str();
    return tree_.leaf_name(root, place.leaf);
  };
  throw py::value_error(name(overlap->first) + ": overlaps the memory of " + name(overlap->second) +
                        ", expected arrays apart from each other");
}

}  // namespace rmsprop_fast
