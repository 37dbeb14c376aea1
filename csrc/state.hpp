// What lives between steps: the hyper-parameters, the arrays that are kept, and how many steps were taken.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "buffers.hpp"
#include "gradient.hpp"
#include "hyper.hpp"

namespace rmsprop_fast {

// The integer that the value is, or else `otherwise`.
std::int64_t integer(py::handle value, std::int64_t otherwise);

// What numbers a hyper-parameter may be.
enum class Range { at_least_0, from_0_to_1, reciprocal, limit, norm };

// A hyper-parameter by its name in Python; lr, which may be a tree, is not among them.
struct Option {
  const char* name;
  double Hyper::* number = nullptr;  // of this range
  Range range = Range::at_least_0;
  bool Hyper::* flag = nullptr;  // or True and False
  bool only_at_init = false;
};
std::span<const Option> options();

class State {
 public:
  // The hyper-parameters by name; those that are missing have their defaults.
  State(py::handle params, const py::dict& hyper);

  // While one exists, no other one can: a step of another thread, or an assignment, is refused.
  class InUse {
   public:
    explicit InUse(State& state);
    ~InUse() { state_.in_use_ = false; }
    InUse(const InUse&) = delete;
    InUse& operator=(const InUse&) = delete;

   private:
    State& state_;
  };

  Buffers& buffers() { return buffers_; }
  Gradient& gradient() { return gradient_; }

  // The hyper-parameters of the step to come, and what came of it.
  const Hyper& begin_step();
  void end_step(bool done);

  // The attributes in Python.
  py::object s() const;
  py::object variance() const;
  py::object kept(void* Leaf::* member) const;  // None if there are no such arrays
  py::object lr() const;
  void set_lr(py::handle value);
  py::object get(const Option& option) const;
  void set(const Option& option, py::handle value);
  std::int64_t steps() const { return steps_; }
  void set_steps(py::handle value);
  std::int64_t skipped() const { return skipped_; }
  void set_skipped(py::handle value);
  std::optional<double> grad_norm() const { return grad_norm_; }
  void set_grad_norm(std::optional<double> norm) { grad_norm_ = norm; }
  std::string repr() const;

  // The tree of function(s, lr) of each leaf, where s is the array in memory.
  py::object map(const py::function& function) const;

 private:
  Hyper hyper_;
  Buffers buffers_;
  Gradient gradient_;
  double lr_number_ = 0;                              // lr, if it is one number
  std::optional<std::vector<py::object>> lr_leaves_;  // else for each leaf a float or a read-only array
  std::int64_t steps_ = 0;
  std::int64_t skipped_ = 0;
  std::optional<double> grad_norm_;
  std::atomic<bool> in_use_ = false;

  void read(const Option& option, py::handle value, Hyper& hyper) const;
  void set_count(std::int64_t& count, py::handle value, const char* name);
};

}  // namespace rmsprop_fast
