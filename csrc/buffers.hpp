// Python objects -> spans of memory. Every check of an array happens here, before the first write.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "rows.hpp"

namespace rmsprop_fast {

class Buffers {
 public:
  // Learns tree and layouts of `params`.
  explicit Buffers(py::handle params);

  // Makes the arrays that are kept between steps with these hyper-parameters, which are those of the leaves.
  void keep(const Hyper& hyper);

  // Lazy::catch_up: lets s of all rows decay by the steps they have missed; or takes it for what it is now.
  void catch_up(const KernelTable& kernels);
  void forget_missed_steps();

  // After a step that was taken.
  void count_step();

  struct Kept {
    std::size_t row;   // of the table
    std::string name;  // for messages
    std::vector<py::object> arrays;
  };
  const Kept* kept(std::string_view name) const;  // null: there are none of that name

  // As Python sees them: the live arrays, or those that are compact in new, read-only ones.
  std::vector<py::object> shown(const Kept& kept) const;

  // Of all that is kept between steps.
  std::size_t nbytes() const;

  // Keeps the arrays of a call alive: another thread may take them out of their containers. They go one by one, as what
  // goes may run Python code, and with it the garbage collector, which looks at those that are left.
  struct Release {
    void operator()(std::vector<py::object>* objects) const {
      while (!objects->empty()) {
        const py::object last = std::move(objects->back());
        objects->pop_back();
      }
    }
  };
  using Held = std::unique_ptr<std::vector<py::object>, Release>;

  // Points `leaves()` to the memory of this call, for as long as the result lives; or throws and writes nothing.
  [[nodiscard]] Held bind(py::handle params, py::handle grads);

  // What the kernel sees; the learning rates belong to State, the rest is set here.
  std::vector<Leaf>& leaves() { return leaves_; }
  std::size_t elements() const { return elements_; }

  // Copies the values of a tree of arrays into these, or throws and writes nothing.
  void restore(const Kept& kept, py::handle tree) const;
  void restore_low_order_bits(const Kept& kept, py::handle tree) const;

  // A read-only copy of an array of numbers of that range, in that layout and its compute type.
  static py::array copy(py::handle array, const Layout& layout, const Name& name, Range range);

  // An array of zeros in that layout, and its compute type or another dtype; `place` sets apart arrays that are used
  // together.
  static py::object zeros(const Layout& layout, std::size_t place = 0, const char* dtype = nullptr);

  // The compute type in which numbers overflow first.
  Element narrowest() const;

  // As Tree does.
  template <class Show>
  void show_objects(const Show& show) const {
    tree_.show_objects(show);
    for (const Kept& kept : kept_) std::for_each(kept.arrays.begin(), kept.arrays.end(), show);
    std::for_each(last_.begin(), last_.end(), show);
    std::for_each(objects_.begin(), objects_.end(), show);
  }

  const std::vector<py::object>& last() const { return last_; }

  const Tree& tree() const { return tree_; }
  const std::vector<Layout>& layouts() const { return layouts_; }

 private:
  Tree tree_;
  std::vector<Layout> layouts_;
  std::vector<Layout> layouts_by_row_;  // of arrays with one number a row, if there are such

  std::vector<Kept> kept_;
  std::vector<Leaf> leaves_;
  std::size_t elements_ = 0;
  std::vector<py::object> objects_;  // of the call that is running; a member to spare each call the allocation
  std::vector<py::object> last_;     // Lazy::catch_up: of each leaf, what Touched::last refers to
  std::vector<Touched> touched_;     // of each leaf, used with a sparse gradient, or with Lazy::catch_up
  std::vector<RowSums> sums_;        // of each leaf
  bool disjoint_ = false;            // the addresses in `leaves_` were checked for overlaps

  // Points a leaf to its sparse gradient, and checks that no Python code has moved that since; or where rows matter,
  // lets a dense one touch all of them.
  void bind_rows(std::size_t leaf, const py::object& gradient);
  void require_still_there(std::size_t leaf, const py::object& values) const;
  void touch_all(std::size_t leaf);
  std::size_t rows_of(std::size_t leaf) const;
  const Layout& layout_of(const Kept& kept, std::size_t leaf) const;
  void require_no_overlap() const;
};

}  // namespace rmsprop_fast
