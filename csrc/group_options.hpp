// The hyper-parameters of a group of a torch optimizer: the values in its dict -> Hyper.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <string>
#include <vector>

#include "hyper.hpp"
#include "options.hpp"
#include "tensors.hpp"

namespace rmsprop_fast {

class GroupOptions {
 public:
  // Reads what has changed since the last time, and from `neutral` what the group lacks; `name` makes what messages
  // call an option. Values may be tensors of one element.
  void read(const py::dict& group, const py::dict& neutral, const std::function<std::string(const char*)>& name);

  // Lets go of what may change without being another object.
  void release();

  const Hyper& hyper() const { return hyper_; }

  // What is wrong with an option for parameters that are computed in float32; empty: nothing.
  const std::string& refusal() const { return refusal_; }

 private:
  bool is_as_seen(const py::dict& group) const;
  void see(const py::dict& group);

  Hyper hyper_;
  std::vector<py::object> values_;  // which the rest was read from; null: to be read again
  struct Seen {
    py::object key, value;  // null: no option, and not a constant
  };
  std::vector<Seen> seen_;             // all of the dict, if none of its options can change and stay the same object
  std::vector<bool> lacks_;            // the group lacked it
  std::vector<std::string> refusals_;  // of each value, if only float64 can compute with it
  std::string refusal_;                // the first of them
};

}  // namespace rmsprop_fast
