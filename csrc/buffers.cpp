#include "buffers.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "packed.hpp"
#include "sparse.hpp"

namespace rmsprop_fast {
namespace {

// (rows, 1, 1, ...)
Layout one_a_row(Layout layout) {
  const std::int64_t rows = layout.shape.empty() ? 1 : layout.shape[0];
  std::fill(layout.strides.begin(), layout.strides.end(), 1);
  for (std::size_t axis = 1; axis < layout.shape.size(); ++axis) layout.shape[axis] = 1;
  layout.size = static_cast<std::size_t>(rows);
  return layout;
}

}  // namespace

Buffers::Buffers(py::handle params) : tree_(params, "params") {
  const Held held(&objects_);
  tree_.flatten(params, "params", objects_);
  for (std::size_t i = 0; i < tree_.leaf_nodes().size(); ++i) {
    layouts_.push_back(learn(objects_[tree_.leaf_nodes()[i]], {tree_, "params", i}));
    leaves_.push_back(
        {.size = layouts_[i].size, .blocks = block_layout(view_of(layouts_[i])), .element = layouts_[i].element});
  }
  touched_.resize(leaves_.size());
  sums_.resize(leaves_.size());
}

void Buffers::keep(const Hyper& hyper) {
  require_packable(hyper, tree_, layouts_);
  for (std::size_t i = 0; hyper.rowwise && i < leaves_.size(); ++i) {
    const auto width = layouts_[i].shape.empty() ? 1 : row_width(view_of(layouts_[i]));
    if (!width)
      throw py::value_error(tree_.leaf_name("params", i) +
                            ": expected a first axis that is the outermost in memory with rowwise=True, got strides " +
                            tuple_text(in_bytes(layouts_[i].strides, layouts_[i].element)));
    touched_[i].width = *width;
    layouts_by_row_.push_back(one_a_row(layouts_[i]));
  }
  for (std::size_t row = 0; row < std::size(kept_arrays); ++row) {
    if (!is_kept(row, hyper)) continue;
    Kept kept{row, std::string("state.") + kept_arrays[row].name, {}};
    const double initial = kept_arrays[row].initial ? hyper.*kept_arrays[row].initial : 0;
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
      const std::size_t place = kept_.size() + 1;
      if (is_packed(kept_arrays[row], hyper)) {
        const auto packed = packed_layout(kept_arrays[row], leaves_[i], layouts_[i]);
        kept.arrays.push_back(packed ? zeros(packed->layout, place, packed->dtype) : py::none());
      } else {
        kept.arrays.push_back(zeros(is_by_row(kept_arrays[row], hyper) ? layouts_by_row_[i] : layouts_[i], place));
      }
      if (initial == 0) continue;
      const py::object numbers = is_packed(kept_arrays[row], hyper) ? zeros(layouts_[i]) : kept.arrays[i];
      numbers.attr("fill")(initial);
      if (is_packed(kept_arrays[row], hyper)) pack(kept_arrays[row], leaves_[i], kept.arrays[i], numbers);
    }
    kept_.push_back(std::move(kept));
  }
  if (hyper.lazy != Lazy::catch_up) return;
  const auto zeros = py::module_::import("numpy").attr("zeros");
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    // A leaf that can have no rows is one row.
    const auto rows = row_width(view_of(layouts_[i])) ? static_cast<std::size_t>(layouts_[i].shape[0]) : 1;
    last_.push_back(zeros(rows + 1, "int64"));
    touched_[i].last = static_cast<std::int64_t*>(py::reinterpret_borrow<py::array>(last_[i]).mutable_data());
  }
}

// A view, so that nobody can resize it, of memory that the system clears when it is first touched.
//
// Large arrays from the system begin at one place of their pages, all of them, and so elements of one index compete for
// the same few lines of the cache: a centered step with momentum, of five arrays, is 15 % faster with the places apart
// (benchmarks/test_targets.py, test_family).
py::object Buffers::zeros(const Layout& layout, std::size_t place, const char* dtype) {
  const auto numpy = py::module_::import("numpy");
  const auto type = numpy.attr("dtype")(dtype ? dtype : type_of(compute_type(layout.element)).name);
  const auto size = type.attr("itemsize").cast<std::size_t>();
  constexpr std::size_t large = 64 * 1024, apart = 13 * 64;  // elements; bytes, whole cache lines
  const std::size_t offset = layout.size >= large ? place * apart : 0;
  const auto memory = numpy.attr("zeros")(layout.size + offset / size, type);
  std::vector<std::int64_t> strides = layout.strides;
  for (std::int64_t& stride : strides) stride *= static_cast<std::int64_t>(size);
  return numpy.attr("ndarray")(py::tuple(py::cast(layout.shape)), type, memory, offset, py::tuple(py::cast(strides)));
}

const Buffers::Kept* Buffers::kept(std::string_view name) const {
  for (const Kept& kept : kept_)
    if (kept.name == name) return &kept;
  return nullptr;
}

std::vector<py::object> Buffers::shown(const Kept& kept) const {
  std::vector<py::object> shown = kept.arrays;
  for (std::size_t i = 0; i < shown.size() && is_packed(kept_arrays[kept.row], *leaves_[i].hyper); ++i)
    shown[i] = unpacked(kept_arrays[kept.row], leaves_[i], kept.arrays[i], zeros(layouts_[i]));
  return shown;
}

std::size_t Buffers::nbytes() const {
  std::size_t sum = 0;
  for (const py::object& last : last_) sum += last.attr("nbytes").cast<std::size_t>();
  for (const Kept& kept : kept_)
    for (const py::object& array : kept.arrays)
      if (!array.is_none()) sum += array.attr("nbytes").cast<std::size_t>();
  return sum;
}

void Buffers::restore(const Kept& kept, py::handle tree) const {
  if (kept_arrays[kept.row].member == &Leaf::low) return restore_low_order_bits(kept, tree);
  std::vector<py::object> nodes;
  std::vector<py::array> copies;
  tree_.flatten(tree, kept.name.c_str(), nodes);
  const Range range = kept_arrays[kept.row].member == &Leaf::s ? Range::mean : Range::any;
  for (std::size_t i = 0; i < layouts_.size(); ++i)
    copies.push_back(copy(nodes[tree_.leaf_nodes()[i]], layout_of(kept, i), {tree_, kept.name.c_str(), i}, range));
  for (const bool writes : {false, true})
    for (std::size_t i = 0; i < layouts_.size(); ++i) {
      if (is_packed(kept_arrays[kept.row], *leaves_[i].hyper)) {
        if (writes) pack(kept_arrays[kept.row], leaves_[i], kept.arrays[i], copies[i]);
        continue;
      }
      const Name name{tree_, kept.name.c_str(), i};
      const Memory memory = require_fit(kept.arrays[i], view_of(layout_of(kept, i)), first_kept + kept.row, name);
      if (writes) std::memcpy(memory.data, copies[i].data(), static_cast<std::size_t>(copies[i].nbytes()));
    }
}

void Buffers::restore_low_order_bits(const Kept& kept, py::handle tree) const {
  std::vector<py::object> nodes, copies;
  tree_.flatten(tree, kept.name.c_str(), nodes);
  for (std::size_t i = 0; i < layouts_.size(); ++i) {
    const py::object& given = nodes[tree_.leaf_nodes()[i]];
    const auto expected = packed_layout(kept_arrays[kept.row], leaves_[i], layouts_[i]);
    require_low_order_bits(given, expected, {tree_, kept.name.c_str(), i});
    copies.push_back(expected ? given.attr("copy")() : given);
  }
  for (std::size_t i = 0; i < layouts_.size(); ++i)
    if (!copies[i].is_none()) quiet_numpy("copyto")(kept.arrays[i], copies[i]);
}

const Layout& Buffers::layout_of(const Kept& kept, std::size_t leaf) const {
  return is_by_row(kept_arrays[kept.row], *leaves_[leaf].hyper) ? layouts_by_row_[leaf] : layouts_[leaf];
}

py::array Buffers::copy(py::handle given, const Layout& layout, const Name& name, Range range) {
  const Element element = compute_type(layout.element);
  const py::object array = as_array(given, layout, element, name);
  require_array(array, name);
  if (!has_shape(view_of(array, element), layout.shape) || !has_real_numbers(array))
    throw py::value_error(name() + ": expected " + (range == Range::at_least_0 ? "a number or " : "") +
                          "real numbers of shape " + tuple_text(layout.shape) + ", got " + describe(array));
  py::array copy = zeros(layout);
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
    leaves_[i].touched = nullptr;
    if (Py_TYPE(g.ptr()) == ndarray || g.is_none()) continue;
    if (is_sparse(g))
      bind_rows(i, py::object(g));
    else
      g = as_array(g, layouts_[i], layouts_[i].element, {tree_, "grads", i});
  }

  std::size_t values = 2 * tree_.size();  // those of sparse gradients follow the trees
  bool same = std::exchange(disjoint_, false) && values == objects_.size();
  std::size_t elements = 0;
  const auto update = [&same](auto& place, auto now) { same &= std::exchange(place, now) == now; };
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    const std::size_t node = tree_.leaf_nodes()[i];
    const View like = view_of(layouts_[i]);
    Leaf& leaf = leaves_[i];
    const Memory p = require_fit(objects_[node], like, Part::params, {tree_, "params", i});
    const py::object& grad = objects_[tree_.size() + node];
    if (!leaf.touched) {
      Memory g{nullptr, like.element};
      if (!grad.is_none()) g = require_fit(grad, like, Part::grads, {tree_, "grads", i});
      leaf.size = grad.is_none() ? 0 : layouts_[i].size;  // without a gradient, there is nothing to update
      update(leaf.g, static_cast<const void*>(g.data));
      update(leaf.grad_element, g.element);
      if ((!last_.empty() || !layouts_by_row_.empty()) && !grad.is_none()) touch_all(i);
    } else {
      require_still_there(i, objects_[values++]);
    }
    elements += leaf.size;
    update(leaf.p, p.data);
    for (const Kept& kept : kept_) {
      if (is_packed(kept_arrays[kept.row], *leaf.hyper)) {  // which nobody else has
        update(leaf.*kept_arrays[kept.row].member, kept.arrays[i].is_none() ? nullptr : array_of(kept.arrays[i]).data);
        continue;
      }
      const Name name{tree_, kept.name.c_str(), i};
      const View kept_like = layouts_by_row_.empty() ? like : view_of(layout_of(kept, i));
      update(leaf.*kept_arrays[kept.row].member,
             require_fit(kept.arrays[i], kept_like, first_kept + kept.row, name).data);
    }
  }
  if (!same) require_no_overlap();
  disjoint_ = true;
  elements_ = elements;
  return held;
}

void Buffers::bind_rows(std::size_t i, const py::object& gradient) {
  Leaf& leaf = leaves_[i];
  const Name name{tree_, "grads", i};
  if ((!last_.empty() || leaf.hyper->rowwise) && !py::isinstance<Rows>(gradient))
    throw py::type_error(name() + ": expected Rows or a dense array" +
                         (leaf.hyper->rowwise ? " with rowwise=True" : " with lazy='catch_up'") +
                         ", got a sparse matrix");
  touch_all(i);
  const Values values = read_rows(gradient, layouts_[i], name, sums_[i], touched_[i]);
  if (leaf.hyper->state_dtype == StateDtype::uint8 && touched_[i].width != leaf.blocks.width)
    throw py::value_error(name() + ": " + wide_rows_expected + std::to_string(touched_[i].width));
  objects_.push_back(values.owner);
  leaf.g = values.memory.data;
  leaf.grad_element = values.memory.element;
  leaf.size = leaf.hyper->lazy == Lazy::dense ? layouts_[i].size : gradient_size(leaf);
}

void Buffers::require_still_there(std::size_t i, const py::object& values) const {
  const auto array = py::reinterpret_borrow<py::array>(values);
  if (array.data() != leaves_[i].g || static_cast<std::size_t>(array.size()) != touched_[i].values * touched_[i].width)
    throw std::runtime_error(tree_.leaf_name("grads", i) + ": expected values that stay where they are during a call");
}

void Buffers::touch_all(std::size_t i) {
  Touched& touched = touched_[i];
  leaves_[i].touched = &touched;
  touched.all = true;
  touched.first = nullptr;
  if (last_.empty()) return;
  touched.width = row_width(view_of(layouts_[i])).value_or(layouts_[i].size);
  touched.count = rows_of(i);
  touched.steps = touched.last[rows_of(i)];
}

std::size_t Buffers::rows_of(std::size_t i) const {
  return static_cast<std::size_t>(py::reinterpret_borrow<py::array>(last_[i]).size()) - 1;
}

void Buffers::catch_up(const KernelTable& kernels) {
  const Kept* const s = kept("state.s");
  for (std::size_t i = 0; i < last_.size(); ++i) {
    touch_all(i);
    Leaf leaf = leaves_[i];
    const Name name{tree_, s->name.c_str(), i};
    leaf.s = require_fit(s->arrays[i], view_of(layout_of(*s, i)), first_kept + s->row, name).data;
    rmsprop_fast::catch_up(leaf, rows_of(i), kernels.scale[static_cast<int>(compute_type(leaf.element))]);
  }
}

void Buffers::forget_missed_steps() {
  for (std::size_t i = 0; i < last_.size(); ++i)
    std::fill_n(touched_[i].last, rows_of(i), touched_[i].last[rows_of(i)]);
}

void Buffers::count_step() {
  for (std::size_t i = 0; i < last_.size(); ++i)
    if (leaves_[i].touched) ++touched_[i].last[rows_of(i)];
}

void Buffers::require_no_overlap() const {
  std::vector<Leaf> leaves = leaves_;  // also those without a gradient, as others must not write into them
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    leaves[i].size = layouts_[i].size;
    if (!layouts_by_row_.empty()) leaves[i].touched = &touched_[i];  // which knows the width of its rows
  }
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
