#include "fit.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

namespace rmsprop_fast {

std::size_t size_of(const View& view) {
  std::size_t size = 1;
  for (const std::int64_t length : view.shape) size *= static_cast<std::size_t>(length);
  return size;
}

bool is_dense(const View& view) {
  const auto stride = [&](std::size_t axis) { return view.strides[axis] * view.stride_unit; };
  // Nearly always the last axis is the innermost.
  std::int64_t expected = view.element_size();
  std::size_t axis = view.shape.size();
  for (; axis > 0 && (view.shape[axis - 1] == 1 || stride(axis - 1) == expected); --axis)
    expected *= view.shape[axis - 1];
  if (axis == 0 || size_of(view) == 0) return true;

  std::vector<std::size_t> axes(view.shape.size());
  std::iota(axes.begin(), axes.end(), std::size_t{0});
  std::erase_if(axes, [&](std::size_t a) { return view.shape[a] == 1; });
  std::sort(axes.begin(), axes.end(), [&](std::size_t a, std::size_t b) { return stride(a) < stride(b); });
  expected = view.element_size();
  return std::all_of(axes.begin(), axes.end(),
                     [&](std::size_t a) { return stride(a) == std::exchange(expected, expected * view.shape[a]); });
}

std::optional<std::size_t> row_width(const View& params, std::size_t axes) {
  if (axes == 0 || axes > params.shape.size()) return std::nullopt;
  std::size_t width = 1;
  for (std::size_t axis = axes; axis < params.shape.size(); ++axis)
    width *= static_cast<std::size_t>(params.shape[axis]);
  std::int64_t expected = static_cast<std::int64_t>(width) * params.element_size();
  for (std::size_t axis = axes; size_of(params) > 0 && axis-- > 0; expected *= params.shape[axis])
    if (params.shape[axis] != 1 && params.strides[axis] * params.stride_unit != expected) return std::nullopt;
  return width;
}

BlockLayout block_layout(const View& params) {
  constexpr std::size_t least_width = 32;  // of rows with blocks of their own: a byte for 32 at most
  const auto width = row_width(params);
  return {width && *width >= least_width ? *width : size_of(params), size_of(params)};
}

std::optional<Why> misfit_by_row(const View& params, const View& view) {
  if (!takes(params, first_kept, view.element)) return Why::element;
  if (view.shape.size() != params.shape.size()) return Why::shape;
  for (std::size_t axis = 0; axis < view.shape.size(); ++axis)
    if (view.shape[axis] != (axis == 0 ? params.shape[0] : 1)) return Why::shape;
  if (!is_dense(view)) return Why::order;
  if (!view.is_writeable) return Why::read_only;
  return is_aligned(view) ? std::nullopt : std::optional(Why::address);
}

std::optional<std::pair<Place, Place>> find_overlap(std::span<const Leaf> leaves) {
  struct Span {
    Place place;
    const void *begin, *end;
  };
  std::vector<Span> spans;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const Leaf& leaf = leaves[i];
    if (leaf.size == 0) continue;
    const auto add = [&](std::size_t part, const void* begin, std::size_t bytes) {
      if (begin) spans.push_back({{i, part}, begin, static_cast<const char*>(begin) + bytes});
    };
    add(params, leaf.p, leaf.size * size_of(leaf.element));
    if (const Touched* const rows = leaf.touched; rows && !rows->all)
      add(grads, leaf.g, rows->values * rows->width * size_of(leaf.grad_element));
    else
      add(grads, leaf.g, leaf.size * size_of(leaf.grad_element));
    for (std::size_t kept = 0; kept < std::size(kept_arrays); ++kept)
      if (is_kept(kept, *leaf.hyper))
        add(first_kept + kept, leaf.*kept_arrays[kept].member, bytes_of(kept_arrays[kept], leaf));
  }
  const std::less<> before;
  std::sort(spans.begin(), spans.end(), [&](const Span& a, const Span& b) { return before(a.begin, b.begin); });

  // The spans so far that reach furthest: of those written, and of all.
  const Span* written = nullptr;
  const Span* any = nullptr;
  for (const Span& span : spans) {
    const bool is_written = span.place.part != grads;
    const Span* other = is_written ? any : written;
    if (other && before(span.begin, other->end)) return std::pair{other->place, span.place};
    if (!any || before(any->end, span.end)) any = &span;
    if (is_written && (!written || before(written->end, span.end))) written = &span;
  }
  return std::nullopt;
}

}  // namespace rmsprop_fast
