// The types of array elements: what they are called, how large they are, and what they are computed in.
//
// Compile-time data only, as kernel.cpp includes it: see kernel.hpp.
#pragma once

#include <cstddef>

namespace rmsprop_fast {

// float32 and float64, the compute types, come first.
enum class Element { float32, float64, float16, bfloat16 };
constexpr int compute_types = 2;

struct ElementType {
  const char* name;
  std::size_t size;     // in bytes; memory is aligned to it
  Element computed_in;  // and what is kept between steps is of this type
};
constexpr ElementType element_types[] = {{"float32", 4, Element::float32},
                                         {"float64", 8, Element::float64},
                                         {"float16", 2, Element::float32},
                                         {"bfloat16", 2, Element::float32}};

constexpr const ElementType& type_of(Element element) { return element_types[static_cast<int>(element)]; }
constexpr std::size_t size_of(Element element) { return type_of(element).size; }
constexpr Element compute_type(Element element) { return type_of(element).computed_in; }
constexpr bool is_half(Element element) { return size_of(element) == 2; }

// All types that are computed in the same one: halves of float32 parameters, and the other way round.
constexpr bool takes_gradient(Element params, Element grads) { return compute_type(params) == compute_type(grads); }

}  // namespace rmsprop_fast
