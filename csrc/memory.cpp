#include "memory.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

namespace rmsprop_fast {

bool is_dense(Numbers shape, Numbers strides) {
  // Nearly always the last axis is the innermost.
  std::int64_t expected = 1;
  std::size_t axis = shape.size();
  for (; axis > 0 && (shape[axis - 1] == 1 || strides[axis - 1] == expected); --axis) expected *= shape[axis - 1];
  if (axis == 0) return true;

  std::vector<std::size_t> axes(shape.size());
  std::iota(axes.begin(), axes.end(), std::size_t{0});
  std::erase_if(axes, [&](std::size_t a) { return shape[a] == 1; });
  std::sort(axes.begin(), axes.end(), [&](std::size_t a, std::size_t b) { return strides[a] < strides[b]; });
  expected = 1;
  return std::all_of(axes.begin(), axes.end(),
                     [&](std::size_t a) { return strides[a] == std::exchange(expected, expected * shape[a]); });
}

bool same_order(Numbers shape, Numbers strides, Numbers others) {
  bool same = true;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] == 0) return true;
    same &= shape[axis] == 1 || strides[axis] == others[axis];
  }
  return same;
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
    const auto add = [&](void* Leaf::* written, Element element) {
      const void* begin = written ? leaf.*written : leaf.g;
      if (begin) spans.push_back({{i, written}, begin, static_cast<const char*>(begin) + leaf.size * size_of(element)});
    };
    add(nullptr, leaf.grad_element);
    add(&Leaf::p, leaf.element);
    for (void* Leaf::* const kept : {&Leaf::s, &Leaf::m, &Leaf::b}) add(kept, compute_type(leaf.element));
  }
  const std::less<> before;
  std::sort(spans.begin(), spans.end(), [&](const Span& a, const Span& b) { return before(a.begin, b.begin); });

  // The spans so far that reach furthest: of those written, and of all.
  const Span* written = nullptr;
  const Span* any = nullptr;
  for (const Span& span : spans) {
    const Span* other = span.place.written ? any : written;
    if (other && before(span.begin, other->end)) return std::pair{other->place, span.place};
    if (!any || before(any->end, span.end)) any = &span;
    if (span.place.written && (!written || before(written->end, span.end))) written = &span;
  }
  return std::nullopt;
}

}  // namespace rmsprop_fast
