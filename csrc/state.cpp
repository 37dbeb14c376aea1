#include "state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "dispatch.hpp"

namespace rmsprop_fast {
namespace {

bool is_lr(const Option& option) { return option.number == &Hyper::lr; }

}  // namespace

State::State(py::handle params, const py::dict& hyper) : buffers_(params) {
  gradient_.prepare(buffers_.leaves());
  for (Leaf& leaf : buffers_.leaves()) leaf.hyper = &hyper_;
  std::optional<std::vector<py::object>> lr_leaves;
  for (const auto& [key, value] : hyper) {
    const std::string name = py::str(key);
    const auto option = std::find_if(options().begin(), options().end(),
                                     [&](const Option& candidate) { return candidate.name == name; });
    if (option == options().end()) {
      std::string expected;
      for (const Option& candidate : options()) expected.append(expected.empty() ? "" : ", ").append(candidate.name);
      throw py::type_error("init: expected hyper-parameters among " + expected + "; got " + quote(key));
    }
    if (is_lr(*option) && is_tree(value))
      lr_leaves = read_lr(value, option->name);
    else
      read(*option, value, buffers_.narrowest(), option->name, hyper_);
  }
  require_legal(hyper_, &Option::name);
  derive(hyper_);
  use_lr(std::move(lr_leaves));

  buffers_.keep(hyper_);
}

void State::begin_step() {
  for (Leaf& leaf : buffers_.leaves()) leaf.steps = static_cast<double>(steps_);
}

void State::end_step(const Outcome& outcome) {
  std::int64_t& count = outcome.is_taken ? steps_ : skipped_;
  if (count < std::numeric_limits<std::int64_t>::max()) ++count;
  if (outcome.is_taken) buffers_.count_step();
  grad_norm_ = outcome.grad_norm;
}

// What is compact is decoded, and must not change meanwhile.
std::vector<py::object> State::shown(const Buffers::Kept& kept) {
  std::optional<InUse> in_use;
  if (hyper_.state_dtype != StateDtype::compute_type) in_use.emplace(in_use_, "state");
  return buffers_.shown(kept);
}

py::object State::kept(std::string_view name) {
  const auto *const found = buffers_.kept(name), *const v = buffers_.kept("state.variance");
  if (found) return buffers_.tree().unflatten(shown(*found), true);
  if (name != "state.s") return py::none();
  // v + m**2, for nobody to write into
  const py::object multiply = quiet_numpy("multiply"), add = quiet_numpy("add");
  const std::vector<py::object> variances = shown(*v), means = shown(*buffers_.kept("state.grad_avg"));
  std::vector<py::object> leaves;
  for (std::size_t i = 0; i < means.size(); ++i) {
    const py::object s = Buffers::zeros(buffers_.layouts()[i]);
    multiply(means[i], means[i], s);
    add(variances[i], s, s);
    s.attr("setflags")(py::arg("write") = false);
    leaves.push_back(s);
  }
  return buffers_.tree().unflatten(leaves, true);
}

void State::restore(const std::string& name, py::handle tree) {
  const InUse in_use(in_use_, "state");
  if (const auto* const found = buffers_.kept(name)) {
    buffers_.restore(*found, tree);
    return buffers_.forget_missed_steps();
  }
  if (name == "state.s")
    throw py::value_error("state.s: expected variance and grad_avg to be assigned in its place, with centered=True");
  if (!tree.is_none())
    throw py::value_error(name + ": expected None, as init made no such arrays, got " + Py_TYPE(tree.ptr())->tp_name);
}

void State::catch_up() {
  const InUse in_use(in_use_, "state");
  buffers_.catch_up(dispatch::kernels());
}

py::object State::last() const {
  return buffers_.last().empty() ? py::none() : buffers_.tree().unflatten(buffers_.last(), true);
}

py::object State::get(const Option& option) const {
  return is_lr(option) && lr_leaves_ ? buffers_.tree().unflatten(*lr_leaves_, true) : value_of(option, hyper_);
}

void State::set(const Option& option, py::handle value) {
  const InUse in_use(in_use_, "state");
  if (is_lr(option) && is_tree(value)) return use_lr(read_lr(value, option.name));
  Hyper next = hyper_;
  read(option, value, buffers_.narrowest(), option.name, next);
  if (next.momentum > 0 && !buffers_.kept("state.momentum_buffer"))
    throw py::value_error("momentum: expected 0, as init made no momentum_buffer with momentum=0, got " + quote(value));
  require_legal(next, &Option::name);
  derive(next);
  if (next.rho != hyper_.rho) buffers_.catch_up(dispatch::kernels());  // the steps so far were missed with the old one
  hyper_ = next;
  if (is_lr(option)) use_lr(std::nullopt);
}

std::vector<py::object> State::read_lr(py::handle tree, const char* name) const {
  std::vector<py::object> nodes, leaves;
  buffers_.tree().flatten(tree, name, nodes);
  for (std::size_t i = 0; i < buffers_.layouts().size(); ++i) {
    const py::object& given = nodes[buffers_.tree().leaf_nodes()[i]];
    const std::string leaf_name = buffers_.tree().leaf_name(name, i);
    const Element element = compute_type(buffers_.layouts()[i].element);
    if (!is_tree(given)) {
      leaves.push_back(py::float_(require_number(given, Range::at_least_0, element, leaf_name)));
      continue;
    }
    leaves.push_back(Buffers::copy(given, buffers_.layouts()[i], {buffers_.tree(), name, i}, Range::at_least_0));
  }
  return leaves;
}

void State::use_lr(std::optional<std::vector<py::object>> leaves) {
  for (std::size_t i = 0; i < buffers_.leaves().size(); ++i) {
    Leaf& leaf = buffers_.leaves()[i];
    const bool is_array = leaves && py::isinstance<py::array>((*leaves)[i]);
    leaf.lr = is_array ? py::reinterpret_borrow<py::array>((*leaves)[i]).data() : nullptr;
    leaf.lr_number = is_array ? 0 : leaves ? (*leaves)[i].cast<double>() : hyper_.lr;
  }
  lr_leaves_.swap(leaves);
}

py::object State::map(const py::function& function) {
  const auto lr_leaves = lr_leaves_;  // the function may assign another
  const auto means = shown(*buffers_.kept(hyper_.centered ? "state.variance" : "state.s"));
  std::vector<py::object> results;
  for (std::size_t i = 0; i < means.size(); ++i)
    results.push_back(function(means[i], lr_leaves ? (*lr_leaves)[i] : py::float_(hyper_.lr)));
  return buffers_.tree().unflatten(results, false);
}

void State::set_steps(py::handle value) { set_count(steps_, value, "steps"); }
void State::set_skipped(py::handle value) { set_count(skipped_, value, "skipped"); }

void State::set_count(std::int64_t& count, py::handle value, const char* name) {
  const InUse in_use(in_use_, "state");
  const std::int64_t number = integer(value, -1);
  if (number < 0)
    throw py::value_error(std::string(name) + ": expected an integer from 0 to 2**63 - 1, got " + quote(value));
  count = number;
}

std::string State::repr() const {
  std::string text = "State(";
  for (const Option& option : options()) {
    const bool always = is_lr(option) || option.number == &Hyper::rho || option.number == &Hyper::eps;
    if (always || !get(option).equal(value_of(option, Hyper{})))
      text.append(option.name).append("=").append(quote(get(option))).append(", ");
  }
  return text.append("steps=").append(std::to_string(steps_)).append(")");
}

}  // namespace rmsprop_fast
