// The engine without Python, for processors that are only emulated: reads leaves from stdin, updates them with each
// kernel and thread count, and writes what came out. tests/test_runs_anywhere.py makes the input and checks the output.
//
// Input: the number of elements as uint64; rho, eps and lr as double; 0 or 1 as uint64, whether lr is an array; then p,
// g, s and lr in float32, then in float64. Output: for each kernel and thread count a line with both on stderr, and p
// and s in both types on stdout.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"

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

template <class Real>
struct Arrays {
  explicit Arrays(std::size_t size)
      : p(read<Real>(size)), g(read<Real>(size)), s(read<Real>(size)), lr(read<Real>(size)) {}

  std::vector<Real> p, g, s, lr;

  Leaf leaf(bool lr_per_element, double lr_number) {
    return {.p = p.data(),
            .g = g.data(),
            .s = s.data(),
            .lr = lr_per_element ? lr.data() : nullptr,
            .lr_number = lr_number,
            .size = p.size(),
            .element = sizeof(Real) == 4 ? Element::float32 : Element::float64};
  }
};

}  // namespace

int main() {
  const auto size = read<std::uint64_t>(1)[0];
  const auto numbers = read<double>(3);
  const bool lr_per_element = read<std::uint64_t>(1)[0] != 0;
  const Hyper hyper{.rho = numbers[0], .eps = numbers[1]};
  const Arrays<float> floats(size);
  const Arrays<double> doubles(size);

  parallel::prepare();
  parallel::set_shares(0, 0);
  for (const std::string& name : dispatch::kernel_names()) {
    dispatch::select(name);
    for (const int threads : {1, 2, 3, 7}) {
      parallel::set_threads(threads);
      auto f = floats;
      auto d = doubles;
      const std::vector<Leaf> leaves{f.leaf(lr_per_element, numbers[2]), d.leaf(lr_per_element, numbers[2])};
      parallel::run(leaves, 2 * size, hyper, dispatch::kernels());
      std::fprintf(stderr, "%s %d\n", name.c_str(), threads);
      write(f.p);
      write(f.s);
      write(d.p);
      write(d.s);
    }
  }
}
