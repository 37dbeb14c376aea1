#include "state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace rmsprop_fast {
namespace {

template <class Real>
void require_in_range(const py::array& array, const std::string& name) {
  const auto* begin = static_cast<const Real*>(array.data());
  const auto* end = begin + array.size();
  const auto* bad = std::find_if_not(begin, end, [](Real value) { return value >= 0 && std::isfinite(value); });
  if (bad != end)
    throw py::value_error(name + ": expected finite numbers of at least 0, got " +
                          std::string(py::str(py::float_(static_cast<double>(*bad)))));
}

}  // namespace

State::State(py::handle params, const py::dict& hyper) : buffers_(params) {
  gradient_.prepare(buffers_.leaves());
  for (Leaf& leaf : buffers_.leaves()) leaf.hyper = &hyper_;
  for (const auto& [key, value] : hyper) {
    const std::string name = py::str(key);
    if (name == "lr") continue;
    const auto option = std::find_if(options().begin(), options().end(),
                                     [&](const Option& candidate) { return candidate.name == name; });
    if (option == options().end()) {
      std::string expected = "lr";
      for (const Option& candidate : options()) expected.append(", ").append(candidate.name);
      throw py::type_error("init: expected hyper-parameters among " + expected + "; got " + quote(key));
    }
    read(*option, value, buffers_.narrowest(), option->name, hyper_);
  }
  require_legal(hyper_, &Option::name);
  derive(hyper_);
  set_lr(hyper.contains("lr") ? py::object(hyper["lr"]) : py::float_(0.01));

  buffers_.keep(&Leaf::s, hyper_.centered ? "state.variance" : "state.s", hyper_.initial_s);
  if (hyper_.centered) buffers_.keep(&Leaf::m, "state.grad_avg", 0);
  if (hyper_.momentum > 0) buffers_.keep(&Leaf::b, "state.momentum_buffer", 0);
}

void State::begin_step() {
  for (Leaf& leaf : buffers_.leaves()) leaf.steps = static_cast<double>(steps_);
}

void State::end_step(const Outcome& outcome) {
  std::int64_t& count = outcome.is_taken ? steps_ : skipped_;
  if (count < std::numeric_limits<std::int64_t>::max()) ++count;
  grad_norm_ = outcome.grad_norm;
}

py::object State::kept(void* Leaf::* member) const {
  const auto* arrays = buffers_.kept(member);
  return arrays ? buffers_.tree().unflatten(*arrays) : py::none();
}

py::object State::s() const {
  if (!hyper_.centered) return kept(&Leaf::s);
  // v + m**2, for nobody to write into
  const auto numpy = py::module_::import("numpy");
  const auto quietly = numpy.attr("errstate")(py::arg("all") = "ignore");
  std::vector<py::object> leaves;
  for (std::size_t i = 0; i < buffers_.kept(&Leaf::s)->size(); ++i) {
    const py::object &v = (*buffers_.kept(&Leaf::s))[i], &m = (*buffers_.kept(&Leaf::m))[i], s = buffers_.zeros(i);
    quietly(numpy.attr("multiply"))(m, m, s);
    quietly(numpy.attr("add"))(v, s, s);
    s.attr("setflags")(py::arg("write") = false);
    leaves.push_back(s);
  }
  return buffers_.tree().unflatten(leaves);
}

py::object State::variance() const { return hyper_.centered ? kept(&Leaf::s) : py::none(); }

py::object State::get(const Option& option) const { return value_of(option, hyper_); }

void State::set(const Option& option, py::handle value) {
  const InUse in_use(in_use_, "state");
  Hyper next = hyper_;
  read(option, value, buffers_.narrowest(), option.name, next);
  if (next.momentum > 0 && !buffers_.kept(&Leaf::b))
    throw py::value_error("momentum: expected 0, as init made no momentum_buffer with momentum=0, got " + quote(value));
  require_legal(next, &Option::name);
  derive(next);
  hyper_ = next;
}

py::object State::lr() const { return lr_leaves_ ? buffers_.tree().unflatten(*lr_leaves_) : py::float_(lr_number_); }

void State::set_lr(py::handle value) {
  const InUse in_use(in_use_, "state");
  std::vector<Leaf>& leaves = buffers_.leaves();
  if (!is_tree(value)) {
    const double number = require_number(value, Range::at_least_0, buffers_.narrowest(), "lr");
    for (Leaf& leaf : leaves) {
      leaf.lr = nullptr;
      leaf.lr_number = number;
    }
    lr_number_ = number;
    lr_leaves_.reset();
    return;
  }

  std::vector<py::object> nodes, given;
  buffers_.tree().flatten(value, "lr", nodes);
  for (const std::size_t node : buffers_.tree().leaf_nodes()) given.push_back(nodes[node]);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const std::string name = buffers_.tree().leaf_name("lr", i);
    if (!is_tree(given[i])) {
      given[i] = py::float_(require_number(given[i], Range::at_least_0, compute_type(leaves[i].element), name));
    } else {
      const py::array copy = buffers_.copy(given[i], i, "lr");
      if (leaves[i].element == Element::float64)
        require_in_range<double>(copy, name);
      else
        require_in_range<float>(copy, name);
      given[i] = copy;
    }
  }
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const bool is_array = py::isinstance<py::array>(given[i]);
    leaves[i].lr = is_array ? py::reinterpret_borrow<py::array>(given[i]).data() : nullptr;
    leaves[i].lr_number = is_array ? 0 : given[i].cast<double>();
  }
  lr_leaves_ = std::move(given);
}

py::object State::map(const py::function& function) const {
  const auto lr_leaves = lr_leaves_;  // the function may assign another
  std::vector<py::object> results;
  for (std::size_t i = 0; i < buffers_.kept(&Leaf::s)->size(); ++i)
    results.push_back(function((*buffers_.kept(&Leaf::s))[i], lr_leaves ? (*lr_leaves)[i] : py::float_(lr_number_)));
  return buffers_.tree().unflatten(results);
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
  std::string text = "State(lr=" + quote(lr());
  for (const Option& option : options()) {
    const bool always = option.number == &Hyper::rho || option.number == &Hyper::eps;
    if (always || !get(option).equal(value_of(option, Hyper{})))
      text.append(", ").append(option.name).append("=").append(quote(get(option)));
  }
  return text.append(", steps=").append(std::to_string(steps_)).append(")");
}

}  // namespace rmsprop_fast
