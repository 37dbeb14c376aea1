// The parameter groups of a torch optimizer -> leaves: for rmsprop_fast/torch/ what buffers and state are for arrays.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fit.hpp"
#include "gradient.hpp"
#include "group_options.hpp"
#include "in_use.hpp"
#include "step.hpp"
#include "tensor_rows.hpp"
#include "tensors.hpp"

namespace rmsprop_fast {

class ParamGroups {
 public:
  // `neutral` has the options that a group may lack; increment_version(list of tensors) tells autograd that they
  // change.
  ParamGroups(const py::dict& neutral, const py::function& increment_version)
      : neutral_(neutral), increment_version_(increment_version) {}

  // Throws if the hyper-parameters of a group are not legal.
  void require_legal_group(const py::dict& group) const;

  // Lets the tensors of a call go.
  struct Release {
    void operator()(ParamGroups* groups) const;
  };
  using Held = std::unique_ptr<ParamGroups, Release>;

  // Points `leaves()` to the memory of all parameters that have a gradient, for as long as the result lives; or throws
  // and writes nothing. From then on no Python code may run before the step is over: it could move that memory.
  //
  // Tensors that are new or do not fit are shown to Python: fit(group, index, gradient) returns tensors to be taken
  // instead, the parameter, its gradient, for each kept array of the table one or None, its step count, and with
  // Lazy::catch_up what `last_touched` is; or raises what is wrong. Then comes None, or where the numbers of a
  // parameter with gaps lie: a step copies them into the parameter that is taken instead, and back. Then None, or the
  // indices of a sparse gradient, of which the gradient is the values. If that replaced a parameter and the norm of the
  // whole gradient is needed, norm() returns it, or None if it is here.
  [[nodiscard]] Held bind(const py::list& groups, const py::dict& state, const py::function& fit,
                          const py::function& norm);

  std::span<const Leaf> leaves() const { return leaves_; }
  std::size_t elements() const { return elements_; }
  const Hyper& hyper() const { return leaves_.empty() ? nothing_to_do_ : *leaves_[0].hyper; }
  Gradient& gradient() { return gradient_; }
  std::optional<double> norm() const { return norm_; }
  std::atomic<bool>& in_use() { return in_use_; }

  // To be called before a step, and with what came of it after.
  void begin_step();
  void end_step(const Outcome& outcome);

  std::int64_t skipped = 0;
  std::optional<double> grad_norm;

 private:
  struct Group {
    py::object dict;
    GroupOptions options = {};
  };

  // The tensors of a parameter: the parts of a leaf, its step count, and with Lazy::catch_up, in which step each row
  // was touched last; behind them, the number of steps so far, and the bits of rho in these steps.
  static constexpr std::size_t step_count = parts, last_touched = parts + 1, slots = parts + 2;
  struct Member {
    std::size_t group = 0, index = 0;
    std::array<py::object, slots> given;  // in the groups and the state; null: not there, or not needed
    std::array<py::object, slots> taken;  // in their place, if Python was asked
    bool is_fitted = false;               // was it?
    py::object with_gaps, indices;
    TensorRows rows;
    PyObject* param = nullptr;           // only to be compared with
    std::array<void*, slots> seen = {};  // where what Python has seen lies, but for the gradient
    bool was_sparse = false;             // was the gradient, when Python looked at it?
    bool is_sparse = false;
    bool is_negated = false;  // the gradient has PyTorch's lazy minus sign, of which its memory knows nothing
  };

  std::string name(const Member& member) const;
  void gather(const py::list& groups, const py::dict& state);
  void gather(Member& member, const Hyper& hyper, const py::dict& state, Py_ssize_t& position) const;
  bool append(Member& member);
  void ask_python(const std::vector<std::size_t>& misfits, const py::function& fit, const py::function& norm);
  void require_no_overlap() const;
  bool may_skip() const { return !groups_.empty() && groups_[0].options.hyper().skip_nonfinite; }
  void count_step();

  py::dict neutral_;
  py::function increment_version_;  // a builtin
  std::vector<Group> groups_;
  std::vector<Member> members_;

  // Of the members that have a gradient.
  std::vector<std::size_t> active_;
  std::vector<Leaf> leaves_, last_leaves_;
  std::vector<std::size_t> sizes_;  // of the parameters
  std::vector<std::int64_t*> touched_counts_;
  struct Count {
    void* address;
    Element element;
  };
  std::vector<Count> counts_;
  struct Copied {
    std::size_t leaf;
    View with_gaps, dense;
  };
  std::vector<Copied> copied_;

  py::object written_;  // a list of tensors, as they are in the groups and the state
  std::size_t elements_ = 0;
  bool disjoint_ = false;  // the addresses in `leaves_` were checked for overlaps
  Gradient gradient_;
  std::optional<double> norm_;
  Hyper nothing_to_do_;
  std::atomic<bool> in_use_ = false;
};

}  // namespace rmsprop_fast
