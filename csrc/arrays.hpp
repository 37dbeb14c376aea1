// NumPy's arrays: what they are, whether they fit a leaf, and what messages say of those that do not.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fit.hpp"
#include "options.hpp"
#include "tree.hpp"

namespace rmsprop_fast {

// How a leaf lies in memory. Sizes and strides in elements, as the arrays of a leaf differ in type.
struct Layout {
  Element element;  // of the parameters
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;
  std::size_t size;
};

// A leaf's name, made only when a message needs it.
struct Name {
  const Tree& tree;
  const char* root;
  std::size_t leaf;

  std::string operator()() const { return tree.leaf_name(root, leaf); }
};

inline const py::detail::PyArray_Proxy& array_of(py::handle array) { return *py::detail::array_proxy(array.ptr()); }

// What messages say of them.
std::string tuple_text(Numbers numbers);
std::string describe(py::handle array);

// Throws unless it is an ndarray whose memory is all there is to it: a masked array has a mask that we would ignore.
void require_array(py::handle object, const Name& name);

// A number, as the gradient of a 0-d parameter, say, becomes an array of that type; anything else stays what it is.
py::object as_array(py::handle object, const Layout& layout, Element element, const Name& name);

// Nothing: none of ours.
std::optional<Element> element_of(py::handle array);

View view_of(py::handle array, Element element);
View view_of(const Layout& layout);
std::vector<std::int64_t> in_bytes(Numbers strides, Element element);

struct Memory {
  void* data;
  Element element;
};

// The memory of an array that is fit for that part of a leaf with parameters like these.
Memory require_fit(py::handle array, const View& like, std::size_t part, const Name& name);

// The layout of a parameter, or throws why it cannot be one.
Layout learn(py::handle array, const Name& name);

}  // namespace rmsprop_fast
