// What lives between steps: the hyper-parameters, the arrays that are kept, and how many steps were taken.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "buffers.hpp"
#include "gradient.hpp"
#include "hyper.hpp"
#include "in_use.hpp"
#include "options.hpp"
#include "step.hpp"

namespace rmsprop_fast {

class State {
 public:
  // The hyper-parameters by name; those that are missing have their defaults.
  State(py::handle params, const py::dict& hyper);

  Buffers& buffers() { return buffers_; }
  const Hyper& hyper() const { return hyper_; }
  Gradient& gradient() { return gradient_; }
  std::atomic<bool>& in_use() { return in_use_; }

  // To be called before a step, and with what came of it after.
  void begin_step();
  void end_step(const Outcome& outcome);

  // The attributes in Python.
  py::object kept(std::string_view name);                  // None: there is nothing of that name
  void restore(const std::string& name, py::handle tree);  // which may be assigned to what it is
  void catch_up();          // Lazy::catch_up: lets s of all rows decay by the steps they have missed
  py::object last() const;  // and in which step each row was touched last; None otherwise
  py::object get(const Option& option) const;
  void set(const Option& option, py::handle value);
  std::int64_t steps() const { return steps_; }
  void set_steps(py::handle value);
  std::int64_t skipped() const { return skipped_; }
  void set_skipped(py::handle value);
  std::optional<double> grad_norm() const { return grad_norm_; }
  void set_grad_norm(std::optional<double> norm) { grad_norm_ = norm; }
  std::size_t nbytes() const { return buffers_.nbytes(); }
  std::string repr() const;

  // As Tree does.
  template <class Show>
  void show_objects(const Show& show) const {
    buffers_.show_objects(show);
    if (lr_leaves_) std::for_each(lr_leaves_->begin(), lr_leaves_->end(), show);
  }

  // The tree of function(s, lr) of each leaf, where s is the array in memory.
  py::object map(const py::function& function);

 private:
  Hyper hyper_;
  Buffers buffers_;
  Gradient gradient_;
  std::optional<std::vector<py::object>> lr_leaves_;  // if lr is a tree: for each leaf a float or a read-only array
  std::int64_t steps_ = 0;
  std::int64_t skipped_ = 0;
  std::optional<double> grad_norm_;
  std::atomic<bool> in_use_ = false;

  std::vector<py::object> shown(const Buffers::Kept& kept);
  std::vector<py::object> read_lr(py::handle tree, const char* name) const;
  void use_lr(std::optional<std::vector<py::object>> leaves);
  void set_count(std::int64_t& count, py::handle value, const char* name);
};

}  // namespace rmsprop_fast
