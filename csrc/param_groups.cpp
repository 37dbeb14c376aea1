#include "param_groups.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace rmsprop_fast {
namespace {

struct Keys {
  PyObject* const params = interned("params");
  PyObject* const param_names = interned("param_names");
  PyObject* const grad = interned("grad");
  PyObject* const is_neg = interned("is_neg");
  PyObject* const is_sparse = interned("is_sparse");
  PyObject* const step = interned("step");
  PyObject* const square_avg = interned("square_avg");
  PyObject* const last_touched = interned("last_touched");
  std::vector<PyObject*> kept;  // in the order of the table

  Keys() {
    for (const KeptArray& array : kept_arrays) kept.push_back(interned(array.torch_name));
  }
};

const Keys& keys() {
  static const Keys found;
  return found;
}

std::string group_name(std::size_t group) { return "param_groups[" + std::to_string(group) + "]"; }

py::object require(PyObject* dict, PyObject* key, std::size_t group) {
  py::object value = find(dict, key);
  if (!value)
    throw py::value_error(group_name(group) + "[" + quote(key) + "]: expected a value, got a group without it");
  return value;
}

// A new reference, or throws what Python raised.
py::object result(PyObject* object) {
  if (!object) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

// Null if there is none: None, say.
py::object as_tensor(py::object object) { return object.is_none() ? py::object() : std::move(object); }

}  // namespace

void ParamGroups::require_legal_group(const py::dict& group) const {
  GroupOptions().read(group, neutral_, [](const char* name) { return std::string(name); });
}

void ParamGroups::Release::operator()(ParamGroups* groups) const {
  for (Member& member : groups->members_) {
    member.given = {};
    if (!std::exchange(member.is_fitted, false)) continue;
    member.taken = {};
    member.with_gaps = {};
    member.indices = {};
  }
  for (Group& group : groups->groups_) {
    group.dict = {};
    group.options.release();
  }
  groups->written_ = {};
  groups->copied_.clear();
}

std::string ParamGroups::name(const Member& member) const {
  const py::object names = find(groups_[member.group].dict.ptr(), keys().param_names);
  if (names && PyList_Check(names.ptr()) && member.index < py::len(names))
    return py::str(names[py::int_(member.index)]);
  return group_name(member.group) + "['params'][" + std::to_string(member.index) + "]";
}

void ParamGroups::gather(const py::list& groups, const py::dict& state) {
  groups_.resize(py::len(groups));
  active_.clear();
  std::size_t count = 0;
  Py_ssize_t position = 0;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    groups_[i].dict = groups[i];
    if (!PyDict_Check(groups_[i].dict.ptr())) throw py::type_error(group_name(i) + ": expected a dict");
    groups_[i].options.read(groups_[i].dict, neutral_,
                            [&](const char* name) { return group_name(i).append("['").append(name).append("']"); });
    const Hyper &hyper = groups_[i].options.hyper(), &first = groups_[0].options.hyper();
    if (hyper.clip_global_norm != first.clip_global_norm || hyper.skip_nonfinite != first.skip_nonfinite)
      throw py::value_error(group_name(i) + ": expected max_grad_norm and skip_nonfinite as in " + group_name(0) +
                            ", as they concern the whole gradient");

    const py::object list = require(groups_[i].dict.ptr(), keys().params, i);
    if (!PyList_Check(list.ptr()) && !PyTuple_Check(list.ptr()))
      throw py::type_error(group_name(i) + "['params']: expected a list or a tuple, got " + quote(list));
    for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(list.ptr()); ++k) {
      if (count == members_.size()) members_.emplace_back();
      Member& member = members_[count++];
      member.given[params] = py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(list.ptr(), k));
      if (member.param != member.given[params].ptr()) member.seen = {};
      member.param = member.given[params].ptr();
      member.group = i;
      member.index = static_cast<std::size_t>(k);
      gather(member, hyper, state, position);
      if (member.given[grads]) active_.push_back(count - 1);
    }
  }
  members_.resize(count);
}

// `position` is where the state goes on: it has the order of the parameters, as a rule, and then nothing is hashed.
void ParamGroups::gather(Member& member, const Hyper& hyper, const py::dict& state, Py_ssize_t& position) const {
  PyObject* const param = member.given[params].ptr();
  if (!is_tensor(member.given[params]))
    throw py::type_error(name(member) + ": expected a torch.Tensor, got " + Py_TYPE(param)->tp_name);

  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t next = position;
  const bool is_next = PyDict_Next(state.ptr(), &next, &key, &value) && key == param;
  if (is_next) position = next;
  auto kept = py::reinterpret_borrow<py::object>(is_next ? value : nullptr);

  py::object gradient = result(PyObject_GetAttr(param, keys().grad));
  if (gradient.is_none()) return;
  // To ask PyTorch where the memory of a sparse tensor is takes a millisecond; to ask every tensor takes time, too.
  member.is_sparse =
      member.was_sparse && result(PyObject_GetAttr(gradient.ptr(), keys().is_sparse)).is(py::bool_(true));
  member.is_negated = !result(PyObject_CallMethodNoArgs(gradient.ptr(), keys().is_neg)).is(py::bool_(false));
  member.given[grads] = std::move(gradient);

  if (!kept) kept = find(state.ptr(), param);
  if (!kept || !PyDict_Check(kept.ptr())) return;
  // With centered, a `square_avg` was loaded, and is not what is kept: Python makes the variance of it.
  if (hyper.centered && find(kept.ptr(), keys().square_avg)) return;
  member.given[step_count] = find(kept.ptr(), keys().step);
  if (hyper.lazy == Lazy::catch_up) member.given[last_touched] = find(kept.ptr(), keys().last_touched);
  for (std::size_t i = 0; i < std::size(kept_arrays); ++i)
    if (is_kept(i, hyper)) member.given[first_kept + i] = find(kept.ptr(), keys().kept[i]);
}

// Appends to leaves, or returns false if something does not fit, or was not seen by Python. Runs no Python code.
bool ParamGroups::append(Member& member) {
  if (member.is_sparse && !member.is_fitted) return false;
  const GroupOptions& options = groups_[member.group].options;
  const Hyper& hyper = options.hyper();
  const auto& tensors = member.is_fitted ? member.taken : member.given;
  const auto like = view_of(tensors[params]);
  if (!like || misfit(*like)) return false;
  const auto gradient = view_of(tensors[grads]);
  if (!gradient || (!member.indices && misfit(*like, grads, *gradient)) || (member.is_negated && !member.is_fitted))
    return false;
  Leaf leaf{.p = like->data,
            .g = gradient->data,
            .lr_number = hyper.lr,
            .size = size_of(*like),
            .blocks = hyper.state_dtype == StateDtype::uint8 ? block_layout(*like) : BlockLayout{},
            .element = like->element,
            .grad_element = gradient->element,
            .hyper = &hyper};

  std::array<void*, slots> now = {};
  now[params] = like->data;
  for (std::size_t row = 0; row < std::size(kept_arrays); ++row) {
    if (!is_kept(row, hyper)) continue;
    const auto kept = kept_memory(tensors[first_kept + row], kept_arrays[row], leaf, *like);
    if (!kept) return false;
    leaf.*kept_arrays[row].member = now[first_kept + row] = *kept;
  }

  const auto count = view_of(tensors[step_count]);
  if (!count || misfit_of_count(*count)) return false;
  now[step_count] = count->data;
  leaf.steps =
      count->element == Element::float64 ? *static_cast<double*>(count->data) : *static_cast<float*>(count->data);
  if (!(leaf.steps >= 0)) return false;

  if (hyper.lazy == Lazy::catch_up) {
    const auto last = integers_of(tensors[last_touched]);
    if (!last) return false;
    now[last_touched] = last->data;
  }
  if (!member.is_fitted && now != member.seen) return false;
  const std::size_t size = leaf.size;
  if ((member.indices || hyper.rowwise || hyper.lazy == Lazy::catch_up) &&
      !touch_rows({*like, *gradient, member.indices, tensors[last_touched], [&] { return name(member); }}, member.rows,
                  leaf))
    return false;
  if (leaf.element != Element::float64 && !options.refusal().empty()) throw py::value_error(options.refusal());
  if (member.with_gaps) {
    const auto view = view_of(member.with_gaps);
    if (!view || view->element != like->element || !has_shape(*view, like->shape) || !span_of(*view)) return false;
    copied_.push_back({leaves_.size(), *view, *like});
  }
  member.seen = now;
  counts_.push_back({count->data, count->element});
  leaves_.push_back(leaf);
  sizes_.push_back(size);
  if (hyper.lazy == Lazy::catch_up) touched_counts_.push_back(member.rows.steps);
  elements_ += leaf.size;
  return true;
}

// Has Python look at members that do not fit, or that it has not seen.
void ParamGroups::ask_python(const std::vector<std::size_t>& misfits, const py::function& fit,
                             const py::function& norm) {
  bool is_replaced = false;
  for (const std::size_t i : misfits) {
    Member& member = members_[i];
    const py::tuple fitting = fit(member.group, member.index, member.given[grads]);
    member.is_fitted = true;
    for (std::size_t slot = 0; slot < slots; ++slot) member.taken[slot] = as_tensor(fitting[slot]);
    member.with_gaps = as_tensor(fitting[slots]);
    member.indices = as_tensor(fitting[slots + 1]);
    member.was_sparse = static_cast<bool>(member.indices);
    is_replaced |= !member.taken[params].is(member.given[params]);
  }
  if (is_replaced && groups_[0].options.hyper().needs_gradient) {
    const py::object known = norm();
    if (!known.is_none()) norm_ = known.cast<double>();
  }
}

ParamGroups::Held ParamGroups::bind(const py::list& groups, const py::dict& state, const py::function& fit,
                                    const py::function& norm) {
  Held held(this);
  gather(groups, state);
  py::list written;
  for (const std::size_t i : active_)
    for (std::size_t slot = 0; slot < slots; ++slot)
      if (const py::object& tensor = members_[i].given[slot]; slot != grads && is_tensor(tensor))
        written.append(tensor);
  written_ = std::move(written);
  norm_.reset();

  std::swap(leaves_, last_leaves_);
  bool is_disjoint = std::exchange(disjoint_, false);
  std::vector<std::size_t> misfits;
  const auto append_all = [&] {
    leaves_.clear();
    sizes_.clear();
    touched_counts_.clear();
    counts_.clear();
    copied_.clear();
    elements_ = 0;
    misfits.clear();
    for (const std::size_t i : active_)
      if (!append(members_[i])) misfits.push_back(i);
  };
  append_all();
  if (!misfits.empty()) {
    ask_python(misfits, fit, norm);
    is_disjoint = false;
    append_all();
    if (!misfits.empty())
      throw std::runtime_error(name(members_[misfits[0]]) + ": expected tensors that stay as they are during a step");
  }

  if (!is_disjoint ||
      !std::equal(last_leaves_.begin(), last_leaves_.end(), leaves_.begin(), leaves_.end(), are_in_same_memory))
    require_no_overlap();
  disjoint_ = true;
  if (!leaves_.empty() && leaves_[0].hyper->needs_gradient) gradient_.prepare(leaves_);
  return held;
}

void ParamGroups::require_no_overlap() const {
  std::vector<Leaf> all(leaves_.begin(), leaves_.end());
  for (std::size_t i = 0; i < all.size(); ++i) all[i].size = sizes_[i];
  const Hyper none;
  for (const Count& count : counts_)
    all.push_back({.p = count.address, .size = 1, .element = count.element, .hyper = &none});
  all.resize(3 * leaves_.size(), {.hyper = &none});
  for (const Copied& one : copied_) {
    Leaf& memory = all[2 * leaves_.size() + one.leaf];
    memory.p = one.with_gaps.data;
    memory.element = one.with_gaps.element;
    memory.size = size_of(one.with_gaps) ? *span_of(one.with_gaps) : 0;
  }
  const auto overlap = find_overlap(all);
  if (!overlap) return;
  const auto describe = [&](const Place& place) {
    const std::string param = name(members_[active_[place.leaf % leaves_.size()]]);
    if (place.part == grads) return param + ".grad";
    const std::size_t kind = place.leaf / leaves_.size();  // leaf, count, parameter with gaps
    return kind == 2 || (kind == 0 && place.part == params) ? param : "the state of " + param;
  };
  throw py::value_error(describe(overlap->first) + ": overlaps the memory of " + describe(overlap->second) +
                        ", expected tensors apart from each other");
}

// What a step changes besides the arrays.
void ParamGroups::count_step() {
  const bool collects = PyGC_Disable() != 0;  // finalizers are Python code
  const py::object done =
      py::reinterpret_steal<py::object>(PyObject_CallOneArg(increment_version_.ptr(), written_.ptr()));
  if (collects) PyGC_Enable();
  if (!done) throw py::error_already_set();
  for (std::int64_t* const count : touched_counts_) ++*count;
  for (const Count& count : counts_) {
    if (count.element == Element::float64)
      *static_cast<double*>(count.address) += 1;
    else
      *static_cast<float*>(count.address) += 1;
  }
}

// Before the arrays, if it is certain that they will change: tensors were looked at just now, and are in cache.
void ParamGroups::begin_step() {
  for (const Copied& one : copied_) copy(one.with_gaps, one.dense);
  if (!may_skip()) count_step();
}

void ParamGroups::end_step(const Outcome& outcome) {
  if (outcome.is_taken)
    for (const Copied& one : copied_) copy(one.dense, one.with_gaps);
  if (!outcome.is_taken)
    ++skipped;
  else if (may_skip())
    count_step();
  grad_norm = outcome.grad_norm;
}

}  // namespace rmsprop_fast
