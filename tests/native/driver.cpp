// The engine without Python, for processors that are only emulated: reads leaves from stdin, updates them with each
// kernel and thread count, and writes what came out. tests/test_runs_anywhere.py makes the input and checks the output.
//
// Input: the number of elements of a leaf, the width of a row, and how many rows a sparse gradient has, as uint64;
// these rows, as int64; the numbers that main() names, as double; then p, g, s, m, b and lr of a leaf in float32, in
// float64, in float16 and in bfloat16, of which s, m, b and lr are in float32. Each leaf is stepped twice, with g, and
// with the values that g begins with as those of the rows. Where the state is compact, s, m and b are rounded first,
// but not those of float64. Output: for each kernel and thread count a line with both on stderr, and p, s, m and b of
// each leaf on stdout, those with g first.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "dispatch.hpp"
#include "openmp.hpp"
#include "rows.hpp"
#include "step.hpp"
#include "threads.hpp"
#include "workers.hpp"

namespace {

using namespace rmsprop_fast;

template <class Value>
std::vector<Value> read(std::size_t count) {
  std::vector<Value> values(count);
  if (std::fread(values.data(), sizeof(Value), count, stdin) != count) std::exit(3);
  return values;
}

template <class Value>
void write(const std::vector<Value>& values) {
  if (std::fwrite(values.data(), sizeof(Value), values.size(), stdout) != values.size()) std::exit(4);
}

template <class Stored, class Real>
struct Arrays {
  Arrays(std::size_t size, Element element_) : element(element_), p(read<Stored>(size)), g(read<Stored>(size)) {
    for (std::vector<Real>* array : {&s, &m, &b, &lr}) *array = read<Real>(size);
  }

  Element element;
  std::vector<Stored> p, g;
  std::vector<Real> s, m, b, lr;
  std::list<std::vector<std::byte>> packed;
  Leaf made;

  Leaf leaf(const Hyper& hyper, bool lr_per_element, double lr_number, const Touched* touched, std::size_t width) {
    made = {.p = p.data(),
            .g = g.data(),
            .s = s.data(),
            .m = hyper.centered ? m.data() : nullptr,
            .b = hyper.momentum > 0 ? b.data() : nullptr,
            .lr = lr_per_element ? lr.data() : nullptr,
            .lr_number = lr_number,
            .size = p.size(),
            .blocks = {width, p.size()},
            .element = element,
            .grad_element = element,
            .hyper = &hyper,
            .touched = touched};
    for (const KeptArray& kept : kept_arrays) {
      if (!kept.is_used(hyper) || !is_packed(kept, hyper)) continue;
      void* const numbers = made.*kept.member;
      std::vector<std::byte>& bytes = packed.emplace_back(bytes_of(kept, made));
      made.*kept.member = bytes.empty() ? nullptr : bytes.data();
      if (numbers) dispatch::kernels().pack(made, kept.member, static_cast<const float*>(numbers));
    }
    Leaf stepped = made;
    stepped.size = gradient_size(stepped);
    return stepped;
  }

  void write_all() {
    for (const auto& [member, array] : {std::pair(&Leaf::s, &s), {&Leaf::m, &m}, {&Leaf::b, &b}})
      if constexpr (sizeof(Real) == sizeof(float))
        if (made.hyper->state_dtype != StateDtype::compute_type && made.*member)
          dispatch::kernels().unpack(made, member, array->data());
    write(p);
    for (const std::vector<Real>* array : {&s, &m, &b}) write(*array);
  }
};

}  // namespace

int main() {
  const auto size = read<std::uint64_t>(1)[0], width = read<std::uint64_t>(1)[0], count = read<std::uint64_t>(1)[0];
  const auto rows = read<std::int64_t>(count);
  const auto next = [] { return read<double>(1)[0]; };
  const double lr_number = next();
  const bool lr_per_element = next() != 0;
  Hyper hyper;
  hyper.rho = next();
  hyper.eps = next();
  hyper.momentum = next();
  hyper.nesterov = next() != 0;
  hyper.centered = next() != 0;
  hyper.weight_decay = next();
  hyper.clip_global_norm = next();
  hyper.rowwise = next() != 0;
  Hyper of_doubles = hyper;
  hyper.state_dtype = static_cast<StateDtype>(next());
  hyper.rounding = static_cast<Rounding>(next());
  hyper.low_bits = static_cast<int>(next());
  derive(hyper);
  derive(of_doubles);
  const Arrays<float, float> singles(size, Element::float32);
  const Arrays<double, double> doubles(size, Element::float64);
  const Arrays<std::uint16_t, float> halves(size, Element::float16);
  const Arrays<std::uint16_t, float> brains(size, Element::bfloat16);

  RowSums sums;
  Touched some, all{.all = true, .width = width};
  std::copy(rows.begin(), rows.end(), sums.make_room(count));
  sums.arrange(width, static_cast<std::int64_t>(size / width), some);

  openmp::prepare();
  workers::prepare();
  threads::set_share(1);
  for (const std::string& name : dispatch::kernel_names()) {
    dispatch::select(name);
    for (const int threads : {1, 2, 3, 7}) {
      threads::set_most(threads);
      std::vector s(2, singles);
      std::vector d(2, doubles);
      std::vector h(2, halves);
      std::vector b(2, brains);
      std::vector<Leaf> leaves;
      for (std::size_t i = 0; i < 2; ++i) {
        const Touched* const touched = i == 1 ? &some : hyper.rowwise ? &all : nullptr;
        leaves.push_back(s[i].leaf(hyper, lr_per_element, lr_number, touched, width));
        leaves.push_back(d[i].leaf(of_doubles, lr_per_element, lr_number, touched, width));
        leaves.push_back(h[i].leaf(hyper, lr_per_element, lr_number, touched, width));
        leaves.push_back(b[i].leaf(hyper, lr_per_element, lr_number, touched, width));
      }
      Gradient gradient;
      gradient.prepare(leaves);
      step({leaves, 8 * size, hyper, gradient, dispatch::kernels(), threads % 2 == 0 ? Pool::openmp : Pool::own});
      std::fprintf(stderr, "%s %d\n", name.c_str(), threads);
      for (std::size_t i = 0; i < 2; ++i) {
        s[i].write_all();
        d[i].write_all();
        h[i].write_all();
        b[i].write_all();
      }
    }
  }
}
