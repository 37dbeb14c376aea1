#include "buffers.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <numeric>
#include <utility>

namespace rmsprop_fast {
namespace {

enum class Access { read, write };

// A leaf's name, made only when a message needs it.
struct Name {
  const Tree& tree;
  const char* root;
  std::size_t leaf;

  std::string operator()() const { return tree.leaf_name(root, leaf); }
};

const py::detail::PyArray_Proxy& array_of(py::handle array) { return *py::detail::array_proxy(array.ptr()); }

const char* element_name(Element element) { return element == Element::float32 ? "float32" : "float64"; }

// Which is also its alignment.
std::size_t element_size(Element element) { return element == Element::float32 ? sizeof(float) : sizeof(double); }

std::string text(py::handle object) { return py::str(object); }

std::string tuple_text(const std::vector<py::ssize_t>& numbers) { return text(py::tuple(py::cast(numbers))); }

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

bool has_element(py::handle array, Element element) {
  const auto* descriptor = py::detail::array_descriptor_proxy(array_of(array).descr);
  using Constants = py::detail::npy_api::constants;
  const int number = element == Element::float32 ? Constants::NPY_FLOAT_ : Constants::NPY_DOUBLE_;
  constexpr char native = std::endian::native == std::endian::little ? '<' : '>';
  return descriptor->type_num == number && (descriptor->byteorder == '=' || descriptor->byteorder == native);
}

void require_memory(py::handle array, const Layout& layout, Access access, const Name& name) {
  const auto& proxy = array_of(array);
  if (access == Access::write && !(proxy.flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_))
    throw py::value_error(name() + ": expected a writeable array, got a read-only one");
  const std::size_t alignment = element_size(layout.element);
  if (reinterpret_cast<std::uintptr_t>(proxy.data) % alignment != 0)
    throw py::value_error(name() + ": expected memory aligned to " + std::to_string(alignment) +
                          " bytes, got address " + std::to_string(reinterpret_cast<std::uintptr_t>(proxy.data)));
}

// Dense: the elements fill one block of memory without gaps, with the axes in any order.
bool is_dense(const Layout& layout) {
  std::vector<std::size_t> axes(layout.shape.size());
  std::iota(axes.begin(), axes.end(), std::size_t{0});
  std::erase_if(axes, [&](std::size_t axis) { return layout.shape[axis] == 1; });
  std::sort(axes.begin(), axes.end(), [&](auto a, auto b) { return layout.strides[a] < layout.strides[b]; });
  auto expected = static_cast<py::ssize_t>(element_size(layout.element));
  for (const std::size_t axis : axes) {
    if (layout.strides[axis] != expected) return false;
    expected *= layout.shape[axis];
  }
  return true;
}

Layout learn(py::handle array, const Name& name) {
  require_array(array, name);
  if (!has_element(array, Element::float32) && !has_element(array, Element::float64))
    throw py::type_error(name() + ": expected float32 or float64 in native byte order, got " + describe(array));
  const auto& proxy = array_of(array);
  Layout layout{has_element(array, Element::float32) ? Element::float32 : Element::float64,
                {proxy.dimensions, proxy.dimensions + proxy.nd},
                {proxy.strides, proxy.strides + proxy.nd},
                1};
  for (const py::ssize_t length : layout.shape) layout.size *= static_cast<std::size_t>(length);
  if (layout.size > 0 && !is_dense(layout))
    throw py::value_error(name() + ": expected dense memory, got " + describe(array) + " with strides " +
                          text(array.attr("strides")));
  require_memory(array, layout, Access::write, name);
  return layout;
}

// A view, so that nobody can resize it, of memory that the system clears when it is first touched.
py::object zeros(const Layout& layout) {
  const auto numpy = py::module_::import("numpy");
  const auto memory = numpy.attr("zeros")(layout.size, element_name(layout.element));
  return numpy.attr("ndarray")(py::tuple(py::cast(layout.shape)), memory.attr("dtype"), memory, 0,
                               py::tuple(py::cast(layout.strides)));
}

// The address of an array that has this layout. Strides of axes of length 1 do not count, nor any of an empty array.
char* address(py::handle array, const Layout& layout, Access access, const Name& name) {
  require_array(array, name);
  const auto& proxy = array_of(array);
  const bool right_element = has_element(array, layout.element);
  if (!right_element ||
      !std::equal(proxy.dimensions, proxy.dimensions + proxy.nd, layout.shape.begin(), layout.shape.end())) {
    const std::string message = name() + ": expected " + element_name(layout.element) + " of shape " +
                                tuple_text(layout.shape) + ", got " + describe(array);
    if (right_element) throw py::value_error(message);
    throw py::type_error(message);
  }
  for (std::size_t axis = 0; layout.size > 0 && axis < layout.shape.size(); ++axis)
    if (layout.shape[axis] > 1 && proxy.strides[axis] != layout.strides[axis])
      throw py::value_error(name() + ": expected strides " + tuple_text(layout.strides) + " as in the state, got " +
                            text(array.attr("strides")));
  require_memory(array, layout, access, name);
  return proxy.data;
}

}  // namespace

bool is_masked(py::handle array) {
  // While numpy.ma was not imported, nothing is one; importing it here could run other Python threads.
  const auto name = py::str("numpy.ma");
  const auto module = py::reinterpret_steal<py::object>(PyImport_GetModule(name.ptr()));
  return module && py::isinstance(array, module.attr("MaskedArray"));
}

bool has_real_numbers(py::handle array) {
  return std::string("fiu").find(text(array.attr("dtype").attr("kind"))) != std::string::npos;
}

Buffers::Buffers(py::handle params) : tree_(params, "params") {
  const Held held(&objects_);
  tree_.flatten(params, "params", objects_);
  for (std::size_t i = 0; i < tree_.leaf_nodes().size(); ++i) {
    const std::size_t node = tree_.leaf_nodes()[i];
    layouts_.push_back(learn(objects_[node], {tree_, "params", i}));
    s_.push_back(zeros(layouts_[i]));
    leaves_.push_back({.size = layouts_[i].size, .element = layouts_[i].element});
    elements_ += layouts_[i].size;
  }
}

py::array Buffers::copy(py::handle array, std::size_t leaf, const char* root) const {
  const Name name{tree_, root, leaf};
  const Layout& layout = layouts_[leaf];
  require_array(array, name);
  const auto& proxy = array_of(array);
  if (!std::equal(proxy.dimensions, proxy.dimensions + proxy.nd, layout.shape.begin(), layout.shape.end()) ||
      !has_real_numbers(array))
    throw py::value_error(name() + ": expected a number or real numbers of shape " + tuple_text(layout.shape) +
                          ", got " + describe(array));
  py::array copy = zeros(layout);
  const auto numpy = py::module_::import("numpy");
  const auto quietly = numpy.attr("errstate")(py::arg("all") = "ignore");  // State checks what came out
  quietly(numpy.attr("copyto"))(copy, array, "same_kind");
  copy.attr("base").attr("setflags")(py::arg("write") = false);
  copy.attr("setflags")(py::arg("write") = false);
  return copy;
}

Element Buffers::narrowest() const {
  const auto is_float32 = [](const Layout& layout) { return layout.element == Element::float32; };
  return std::any_of(layouts_.begin(), layouts_.end(), is_float32) ? Element::float32 : Element::float64;
}

Buffers::Held Buffers::bind(py::handle params, py::handle grads) {
  // First all that may run Python code (a dict's keys may compare in Python), then all that looks at memory.
  Held held(&objects_);
  tree_.flatten(params, "params", objects_);
  tree_.flatten(grads, "grads", objects_);

  bool same = std::exchange(disjoint_, false);
  const auto update = [&same](auto& address, auto* now) { same &= std::exchange(address, now) == now; };
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    const std::size_t node = tree_.leaf_nodes()[i];
    Leaf& leaf = leaves_[i];
    update(leaf.p, address(objects_[node], layouts_[i], Access::write, {tree_, "params", i}));
    update(leaf.g, address(objects_[tree_.size() + node], layouts_[i], Access::read, {tree_, "grads", i}));
    update(leaf.s, address(s_[i], layouts_[i], Access::write, {tree_, "state.s", i}));
  }
  if (!same) check_overlaps();
  disjoint_ = true;
  return held;
}

void Buffers::check_overlaps() const {
  struct Span {
    std::uintptr_t begin, end;
    Access access;
    const char* root;
    std::size_t leaf;
  };
  std::vector<Span> spans;
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    const std::size_t bytes = layouts_[i].size * element_size(layouts_[i].element);
    if (bytes == 0) continue;
    const auto add = [&](const void* address, Access access, const char* root) {
      const auto begin = reinterpret_cast<std::uintptr_t>(address);
      spans.push_back({begin, begin + bytes, access, root, i});
    };
    add(leaves_[i].p, Access::write, "params");
    add(leaves_[i].g, Access::read, "grads");
    add(leaves_[i].s, Access::write, "state.s");
  }
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });

  // The spans so far that reach furthest: of those written, and of all.
  const Span* written = nullptr;
  const Span* any = nullptr;
  for (const Span& span : spans) {
    const Span* before = span.access == Access::write ? any : written;
    if (before && before->end > span.begin)
      throw py::value_error(tree_.leaf_name(before->root, before->leaf) + ": overlaps the memory of " +
                            tree_.leaf_name(span.root, span.leaf) + ", expected arrays apart from each other");
    if (!any || span.end > any->end) any = &span;
    if (span.access == Access::write && (!written || span.end > written->end)) written = &span;
  }
}

}  // namespace rmsprop_fast
