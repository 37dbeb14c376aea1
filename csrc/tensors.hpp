// torch tensors -> views of their memory.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "fit.hpp"
#include "values.hpp"

namespace rmsprop_fast {

bool is_tensor(const py::object& object);

// Valid until Python runs. Nothing: no tensor, or one without numbers of a known type in memory of its own.
std::optional<View> view_of(const py::object& tensor);

// The same of a tensor of int64.
struct Integers {
  std::int64_t* data;
  Numbers shape, strides;
};
std::optional<Integers> integers_of(const py::object& tensor);

// The memory of a tensor for an array that is packed. Nothing: it does not fit.
std::optional<void*> packed_memory(const py::object& tensor, const KeptArray& kept, const Leaf& leaf,
                                   const View& params);

// As above, for any array that is kept.
inline std::optional<void*> kept_memory(const py::object& tensor, const KeptArray& kept, const Leaf& leaf,
                                        const View& params) {
  if (is_packed(kept, *leaf.hyper)) return packed_memory(tensor, kept, leaf, params);
  const auto view = view_of(tensor);
  if (!view) return std::nullopt;
  const auto why = is_by_row(kept, *leaf.hyper) ? misfit_by_row(params, *view) : misfit(params, first_kept, *view);
  return why ? std::nullopt : std::optional(view->data);
}

// How many elements lie from the first to the last one, with the gaps; nothing: some may lie in the same place.
std::optional<std::size_t> span_of(const View& view);

// Copies the numbers of one array to another one of the same shape and type.
void copy(const View& from, const View& to);

// What is wrong with the parameters of a leaf, and with a step count.
inline std::optional<Why> misfit(const View& params) {
  return is_dense(params) ? misfit(params, Part::params, params) : Why::order;
}
inline std::optional<Why> misfit_of_count(const View& count) {
  if (is_half(count.element)) return Why::element;
  if (size_of(count) != 1) return Why::shape;
  return is_aligned(count) ? std::nullopt : std::optional(Why::address);
}

// For Python, see docs.hpp.
std::size_t code_bytes(const py::object& params);
void pack_codes(const py::object& params, const py::object& numbers, const py::object& codes, bool is_signed);
void unpack_codes(const py::object& params, const py::object& codes, const py::object& numbers, bool is_signed);
std::optional<std::string> misfit(const std::string& part, const py::object& tensor, const py::object& like);

}  // namespace rmsprop_fast
