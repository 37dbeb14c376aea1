#include "param_groups.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace rmsprop_fast {
namespace {

// Strings that objects and dictionaries are asked for at each step; they live as long as the process.
PyObject* interned(const char* text) {
  PyObject* const string = PyUnicode_InternFromString(text);
  if (!string) throw py::error_already_set();
  return string;
}

struct Keys {
  PyObject* const params = interned("params");
  PyObject* const param_names = interned("param_names");
  PyObject* const grad = interned("grad");
  PyObject* const is_neg = interned("is_neg");
  PyObject* const step = interned("step");
  PyObject* const square_avg = interned("square_avg");
  PyObject* const variance = interned("variance");
  PyObject* const grad_avg = interned("grad_avg");
  PyObject* const momentum_buffer = interned("momentum_buffer");

  // The hyper-parameters of a group: those that torch has.
  struct OptionKey {
    PyObject* key;
    const Option* option;
  };
  const std::vector<OptionKey> options = [] {
    std::vector<OptionKey> found;
    for (const Option& option : rmsprop_fast::options())
      if (option.torch_name) found.push_back({interned(option.torch_name), &option});
    return found;
  }();
};

const Keys& keys() {
  static const Keys found;
  return found;
}

// Null if there is no such key. May run Python code, if keys are not strings.
py::object find(PyObject* dict, PyObject* key) {
  PyObject* const value = PyDict_GetItemWithError(dict, key);
  if (!value && PyErr_Occurred()) throw py::error_already_set();
  return py::reinterpret_borrow<py::object>(value);
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

bool is_a(const py::object& object, const py::type& type) {
  return object && PyObject_TypeCheck(object.ptr(), reinterpret_cast<PyTypeObject*>(type.ptr()));
}

bool is_immutable(PyObject* value) {
  return PyFloat_CheckExact(value) || PyLong_CheckExact(value) || PyBool_Check(value) || value == Py_None;
}

std::optional<Element> element_of(dlpack::DataType type) {
  if (type.lanes != 1) return std::nullopt;
  if (type.code == dlpack::code_bfloat && type.bits == 16) return Element::bfloat16;
  if (type.code != dlpack::code_float) return std::nullopt;
  if (type.bits == 64) return Element::float64;
  if (type.bits == 32) return Element::float32;
  if (type.bits == 16) return Element::float16;
  return std::nullopt;
}

// Null if there is none: None, say.
py::object as_tensor(py::object object) { return object.is_none() ? py::object() : std::move(object); }

}  // namespace

ParamGroups::ParamGroups(const py::type& tensor_type, const py::function& increment_version)
    : tensor_type_(tensor_type), increment_version_(increment_version) {
  const py::capsule capsule = tensor_type.attr("__dlpack_c_exchange_api__");
  api_ = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::capsule_name));
  if (!api_) throw py::error_already_set();
  while (api_ && api_->version.major != dlpack::major_version) api_ = api_->previous;
  if (!api_) throw std::runtime_error("torch: expected version 1 of DLPack's exchange API, got none of it");
}

void ParamGroups::require_legal_group(const py::dict& group) const {
  Group read{.dict = group};
  read_options(read, [](const char* name) { return std::string(name); });
}

void ParamGroups::Release::operator()(ParamGroups* groups) const {
  for (Member& member : groups->members_) {
    member.given = {};
    member.taken = {};
    member.is_fitted = false;
  }
  for (Group& group : groups->groups_) {
    group.dict = {};
    for (py::object& value : group.values)
      if (value && !is_immutable(value.ptr())) value = {};
  }
  groups->written_ = {};
}

std::string ParamGroups::name(const Member& member) const {
  const py::object names = find(groups_[member.group].dict.ptr(), keys().param_names);
  if (names && PyList_Check(names.ptr()) && member.index < py::len(names))
    return py::str(names[py::int_(member.index)]);
  return group_name(member.group) + "['params'][" + std::to_string(member.index) + "]";
}

// Reads what has changed since the last time.
template <class Name>
void ParamGroups::read_options(Group& group, const Name& name) const {
  bool changed = false;
  group.values.resize(keys().options.size());
  group.refusals.resize(keys().options.size());
  try {
    for (std::size_t i = 0; i < group.values.size(); ++i) {
      const auto [key, option] = keys().options[i];
      py::object value = find(group.dict.ptr(), key);
      if (value && value.is(group.values[i])) continue;
      changed = true;
      const std::string full_name = name(option->torch_name);
      if (!value) throw py::value_error(full_name + ": expected a value, got a group without it");
      group.values[i] = value;
      if (is_a(value, tensor_type_)) {
        if (value.attr("numel")().cast<std::int64_t>() != 1)
          throw py::value_error(full_name + ": expected a number or a tensor of one element, got " + quote(value));
        value = value.attr("item")();
      }
      const auto read_as = [&, &option = option](Element element) {
        read(*option, value, element, full_name, group.hyper);
      };
      group.refusals[i].clear();
      try {
        read_as(Element::float32);
      } catch (const py::value_error& refusal) {
        read_as(Element::float64);
        group.refusals[i] = refusal.what();
      }
    }
    if (!changed) return;
    const auto refusal = std::find_if(group.refusals.begin(), group.refusals.end(),
                                      [](const std::string& candidate) { return !candidate.empty(); });
    group.refusal = refusal == group.refusals.end() ? "" : *refusal;
    require_legal(group.hyper, &Option::torch_name);
    derive(group.hyper);
  } catch (...) {
    group.values.clear();  // so that all is read again
    throw;
  }
}

void ParamGroups::read_options(std::size_t group) {
  read_options(groups_[group],
               [&](const char* name) { return group_name(group).append("['").append(name).append("']"); });
}

void ParamGroups::gather(const py::list& groups, const py::dict& state) {
  groups_.resize(py::len(groups));
  active_.clear();
  std::size_t count = 0;
  Py_ssize_t position = 0;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    groups_[i].dict = groups[i];
    if (!PyDict_Check(groups_[i].dict.ptr())) throw py::type_error(group_name(i) + ": expected a dict");
    read_options(i);
    const Hyper &hyper = groups_[i].hyper, &first = groups_[0].hyper;
    if (hyper.clip_global_norm != first.clip_global_norm || hyper.skip_nonfinite != first.skip_nonfinite)
      throw py::value_error(group_name(i) + ": expected max_grad_norm and skip_nonfinite as in " + group_name(0) +
                            ", as they concern the whole gradient");

    const py::object params = require(groups_[i].dict.ptr(), keys().params, i);
    if (!PyList_Check(params.ptr())) throw py::type_error(group_name(i) + "['params']: expected a list");
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(params.ptr()); ++k) {
      if (count == members_.size()) members_.emplace_back();
      Member& member = members_[count++];
      member.given[p] = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(params.ptr(), k));
      if (member.param != member.given[p].ptr()) member.seen = {};
      member.param = member.given[p].ptr();
      member.group = i;
      member.index = static_cast<std::size_t>(k);
      gather(member, hyper, state, position);
      if (member.given[g]) active_.push_back(count - 1);
    }
  }
  members_.resize(count);
}

// `position` is where the state goes on: it has the order of the parameters, as a rule, and then nothing is hashed.
void ParamGroups::gather(Member& member, const Hyper& hyper, const py::dict& state, Py_ssize_t& position) const {
  PyObject* const param = member.given[p].ptr();
  if (!is_a(member.given[p], tensor_type_))
    throw py::type_error(name(member) + ": expected a torch.Tensor, got " + Py_TYPE(param)->tp_name);

  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t next = position;
  const bool is_next = PyDict_Next(state.ptr(), &next, &key, &value) && key == param;
  if (is_next) position = next;
  auto kept = py::reinterpret_borrow<py::object>(is_next ? value : nullptr);

  py::object gradient = result(PyObject_GetAttr(param, keys().grad));
  if (gradient.is_none()) return;
  member.is_negated = !result(PyObject_CallMethodNoArgs(gradient.ptr(), keys().is_neg)).is(py::bool_(false));
  member.given[g] = std::move(gradient);

  if (!kept) kept = find(state.ptr(), param);
  // With centered, `square_avg` stands there only if it was loaded, and is not what is kept then.
  if (!kept || !PyDict_Check(kept.ptr()) || (hyper.centered && find(kept.ptr(), keys().square_avg))) return;
  member.given[t] = find(kept.ptr(), keys().step);
  member.given[s] = find(kept.ptr(), hyper.centered ? keys().variance : keys().square_avg);
  if (hyper.centered) member.given[m] = find(kept.ptr(), keys().grad_avg);
  if (hyper.momentum > 0) member.given[b] = find(kept.ptr(), keys().momentum_buffer);
}

std::optional<ParamGroups::Memory> ParamGroups::memory_of(const py::object& tensor) const {
  if (!is_a(tensor, tensor_type_)) return std::nullopt;
  dlpack::Tensor at{};
  if (api_->tensor_from_object(tensor.ptr(), &at) != 0) {
    PyErr_Clear();
    return std::nullopt;
  }
  const auto element = element_of(at.dtype);
  if (!element || at.device.type != dlpack::cpu) return std::nullopt;
  const auto axes = static_cast<std::size_t>(at.ndim);
  Memory memory{static_cast<char*>(at.data) + at.byte_offset, *element, {at.shape, axes}, {at.strides, axes}, 1};
  for (const std::int64_t length : memory.shape) memory.size *= static_cast<std::size_t>(length);
  const bool is_there = at.data || memory.size == 0;
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(memory.data) % size_of(*element) == 0;
  return is_there && is_aligned ? std::optional(memory) : std::nullopt;
}

// Appends to leaves, or returns false if something does not fit, or was not seen by Python. Runs no Python code.
bool ParamGroups::append(Member& member) {
  const Group& group = groups_[member.group];
  const Hyper& hyper = group.hyper;
  Leaf leaf{.lr_number = hyper.lr, .hyper = &hyper};

  const auto& tensors = member.is_fitted ? member.taken : member.given;
  const auto param = memory_of(tensors[p]);
  if (!param || !(param->size == 0 || is_dense(param->shape, param->strides))) return false;
  leaf.p = param->data;
  leaf.size = param->size;
  leaf.element = param->element;

  const auto has_layout = [&](const std::optional<Memory>& memory) {
    return memory && std::equal(memory->shape.begin(), memory->shape.end(), param->shape.begin(), param->shape.end()) &&
           same_order(param->shape, param->strides, memory->strides);
  };
  const auto gradient = memory_of(tensors[g]);
  if (!has_layout(gradient) || (member.is_negated && !member.is_fitted)) return false;
  leaf.g = gradient->data;
  leaf.grad_element = gradient->element;
  if (!takes_gradient(leaf.element, leaf.grad_element)) return false;

  std::array<void*, parts> now = {};
  now[p] = leaf.p;
  const auto take = [&](Part part, void*& place) {
    const auto kept = memory_of(tensors[part]);
    if (!has_layout(kept) || kept->element != compute_type(leaf.element)) return false;
    place = now[part] = kept->data;
    return true;
  };
  if (!take(s, leaf.s) || (hyper.centered && !take(m, leaf.m)) || (hyper.momentum > 0 && !take(b, leaf.b)))
    return false;

  const auto count = memory_of(tensors[t]);
  if (!count || count->size != 1 || (count->element != Element::float32 && count->element != Element::float64))
    return false;
  now[t] = count->data;
  const double steps =
      count->element == Element::float64 ? *static_cast<double*>(count->data) : *static_cast<float*>(count->data);
  if (!(steps >= 0)) return false;
  leaf.steps = steps;

  if (!member.is_fitted && now != member.seen) return false;
  if (leaf.element != Element::float64 && !group.refusal.empty()) throw py::value_error(group.refusal);
  member.seen = now;
  counts_.push_back({count->data, count->element});
  leaves_.push_back(leaf);
  elements_ += leaf.size;
  return true;
}

// Has Python look at members that do not fit, or that it has not seen.
void ParamGroups::ask_python(const std::vector<std::size_t>& misfits, const py::function& fit,
                             const py::function& norm) {
  bool is_replaced = false;
  for (const std::size_t i : misfits) {
    Member& member = members_[i];
    const py::tuple fitting = fit(member.group, member.index, member.given[g]);
    for (std::size_t part = 0; part < parts; ++part) member.taken[part] = as_tensor(fitting[part]);
    member.is_fitted = true;
    is_replaced |= !member.taken[p].is(member.given[p]);
  }
  if (is_replaced && groups_[0].hyper.needs_gradient) {
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
    for (const Part part : {p, t, s, m, b})
      if (const py::object& tensor = members_[i].given[part]; is_a(tensor, tensor_type_)) written.append(tensor);
  written_ = std::move(written);
  norm_.reset();

  std::swap(leaves_, last_leaves_);
  bool is_disjoint = std::exchange(disjoint_, false);
  std::vector<std::size_t> misfits;
  const auto append_all = [&] {
    leaves_.clear();
    counts_.clear();
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

  const auto same = [](const Leaf& a, const Leaf& b) {
    return a.p == b.p && a.g == b.g && a.s == b.s && a.m == b.m && a.b == b.b && a.size == b.size &&
           a.element == b.element && a.grad_element == b.grad_element;
  };
  if (!is_disjoint || !std::equal(last_leaves_.begin(), last_leaves_.end(), leaves_.begin(), leaves_.end(), same))
    require_no_overlap();
  disjoint_ = true;
  if (!leaves_.empty() && leaves_[0].hyper->needs_gradient) gradient_.prepare(leaves_);
  return held;
}

void ParamGroups::require_no_overlap() const {
  std::vector<Leaf> all(leaves_.begin(), leaves_.end());
  for (const Count& count : counts_) all.push_back({.p = count.address, .size = 1, .element = count.element});
  const auto overlap = find_overlap(all);
  if (!overlap) return;
  const auto describe = [&](const Place& place) {
    const std::string param = name(members_[active_[place.leaf % leaves_.size()]]);
    if (!place.written) return param + ".grad";
    const bool is_param = place.leaf < leaves_.size() && place.written == &Leaf::p;
    return is_param ? param : "the state of " + param;
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
  for (const Count& count : counts_) {
    if (count.element == Element::float64)
      *static_cast<double*>(count.address) += 1;
    else
      *static_cast<float*>(count.address) += 1;
  }
}

// Before the arrays, if it is certain that they will change: tensors were looked at just now, and are in cache.
void ParamGroups::begin_step() {
  if (!may_skip()) count_step();
}

void ParamGroups::end_step(const Outcome& outcome) {
  if (!outcome.is_taken)
    ++skipped;
  else if (may_skip())
    count_step();
  grad_norm = outcome.grad_norm;
}

}  // namespace rmsprop_fast
