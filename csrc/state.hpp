// What lives between steps: the hyper-parameters, s, and how many steps were taken.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "buffers.hpp"
#include "hyper.hpp"

namespace rmsprop_fast {

// The integer that the value is, or else `otherwise`.
std::int64_t integer(py::handle value, std::int64_t otherwise);

class State {
 public:
  State(py::handle params, py::handle lr, py::handle rho, py::handle eps);

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
  const Hyper& hyper() const { return hyper_; }
  void count_step() { ++steps_; }

  // The attributes in Python.
  py::object s() const { return buffers_.tree().unflatten(buffers_.s()); }
  py::object lr() const;
  double rho() const { return hyper_.rho; }
  double eps() const { return hyper_.eps; }
  std::int64_t steps() const { return steps_; }
  void set_lr(py::handle value);
  void set_rho(py::handle value);
  void set_eps(py::handle value);
  void set_steps(py::handle value);

  // The tree of function(s, lr) of each leaf.
  py::object map(const py::function& function) const;

 private:
  Buffers buffers_;
  Hyper hyper_{};
  double lr_number_ = 0;                              // lr, if it is one number
  std::optional<std::vector<py::object>> lr_leaves_;  // else for each leaf a float or a read-only array
  std::int64_t steps_ = 0;
  std::atomic<bool> in_use_ = false;
};

}  // namespace rmsprop_fast
