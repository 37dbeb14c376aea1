#include "param_groups.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "tree.hpp"

namespace rmsprop_fast {
namespace {

// Strings that dictionaries are asked for at each step; they live as long as the process.
PyObject* interned(const char* text) {
  PyObject* const string = PyUnicode_InternFromString(text);
  if (!string) throw py::error_already_set();
  return string;
}

// The keys of hyper-parameters in a group: lr, and those of the options that torch has, in their order.
const std::vector<PyObject*>& option_keys() {
  static const std::vector<PyObject*> keys = [] {
    std::vector<PyObject*> found{interned("lr")};
    for (const Option& option : options())
      if (option.torch_name) found.push_back(interned(option.torch_name));
    return found;
  }();
  return keys;
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

bool is_immutable(PyObject* value) {
  return PyFloat_CheckExact(value) || PyLong_CheckExact(value) || PyBool_Check(value) || value == Py_None;
}

// lr and options of a group, a value for each of option_keys(). Tensors of one element count as their number.
void read_values(const std::vector<py::object>& values, Element narrowest, const std::string& prefix,
                 const std::string& suffix, const py::type& tensor_type, double& lr, Hyper& hyper) {
  const auto number_of = [&](const py::object& value) -> py::object {
    const bool is_one = py::isinstance(value, tensor_type) && value.attr("numel")().cast<std::int64_t>() == 1;
    return is_one ? value.attr("item")() : value;
  };
  const auto full_name = [&](const char* name) { return prefix + name + suffix; };
  auto value = values.begin();
  lr = require_number(number_of(*value++), Range::at_least_0, narrowest, full_name("lr"));
  for (const Option& option : options())
    if (option.torch_name) read(option, number_of(*value++), narrowest, full_name(option.torch_name), hyper);
  rmsprop_fast::require_legal(hyper, &Option::torch_name);
  derive(hyper);
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

ParamGroups::ParamGroups(const py::type& tensor_type) : tensor_type_(tensor_type) {
  const py::capsule capsule = tensor_type.attr("__dlpack_c_exchange_api__");
  api_ = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::capsule_name));
  if (!api_) throw py::error_already_set();
  while (api_ && api_->version.major != dlpack::major_version) api_ = api_->previous;
  if (!api_) throw std::runtime_error("torch: expected version 1 of DLPack's exchange API, got none of it");
}

void ParamGroups::require_legal_group(const py::dict& group) const {
  std::vector<py::object> values;
  for (PyObject* const key : option_keys()) values.push_back(require(group.ptr(), key, 0));
  double lr = 0;
  Hyper hyper;
  read_values(values, Element::float64, "", "", tensor_type_, lr, hyper);
}

void ParamGroups::Release::operator()(ParamGroups* groups) const {
  for (Member& member : groups->members_) {
    for (std::size_t part = p + 1; part < parts; ++part) member.given[part] = {};
    member.taken = {};
    member.is_fitted = false;
  }
}

std::string ParamGroups::name(const Member& member) const {
  static PyObject* const key = interned("param_names");
  const py::object names = find(groups_[member.group].dict.ptr(), key);
  if (names && PyList_Check(names.ptr()) && member.index < py::len(names))
    return py::str(names[py::int_(member.index)]);
  return group_name(member.group) + "['params'][" + std::to_string(member.index) + "]";
}

void ParamGroups::read_options(std::size_t index) {
  Group& group = groups_[index];
  bool same = !group.values.empty();
  std::vector<py::object>& values = group.values;
  values.resize(option_keys().size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    py::object value = require(group.dict.ptr(), option_keys()[i], index);
    same &= value.is(values[i]) && is_immutable(value.ptr());
    values[i] = std::move(value);
  }
  if (same) return;
  try {
    Hyper hyper;
    read_values(values, group.narrowest, group_name(index) + "['", "']", tensor_type_, group.lr, hyper);
    group.hyper = hyper;
  } catch (...) {
    values.clear();  // to be read again
    throw;
  }
}

void ParamGroups::gather(const py::list& groups, const py::dict& state) {
  static PyObject *const params_key = interned("params"), *const grad = interned("grad"),
                         *const is_neg = interned("is_neg"), *const step = interned("step"),
                         *const square_avg = interned("square_avg"), *const variance = interned("variance"),
                         *const grad_avg = interned("grad_avg"), *const momentum_buffer = interned("momentum_buffer");

  groups_.resize(py::len(groups));
  active_.clear();
  std::size_t count = 0;
  Py_ssize_t position = 0;  // the state has the order of the parameters, as a rule
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    groups_[i].dict = groups[i];
    if (!PyDict_Check(groups_[i].dict.ptr())) throw py::type_error(group_name(i) + ": expected a dict");
    read_options(i);
    const Hyper& hyper = groups_[i].hyper;
    const Hyper& first = groups_[0].hyper;
    if (hyper.clip_global_norm != first.clip_global_norm || hyper.skip_nonfinite != first.skip_nonfinite)
      throw py::value_error(group_name(i) + ": expected max_grad_norm and skip_nonfinite as in " + group_name(0) +
                            ", as they concern the whole gradient");

    const py::object params = require(groups_[i].dict.ptr(), params_key, i);
    if (!PyList_Check(params.ptr())) throw py::type_error(group_name(i) + "['params']: expected a list");
    for (std::size_t k = 0; k < static_cast<std::size_t>(PyList_GET_SIZE(params.ptr())); ++k) {
      if (count == members_.size()) members_.emplace_back();
      Member& member = members_[count++];
      PyObject* const param = PyList_GET_ITEM(params.ptr(), static_cast<Py_ssize_t>(k));
      if (member.given[p].ptr() != param) {
        member = {};
        member.given[p] = py::reinterpret_borrow<py::object>(param);
      }
      member.group = i;
      member.index = k;
      if (!PyObject_TypeCheck(param, reinterpret_cast<PyTypeObject*>(tensor_type_.ptr())))
        throw py::type_error(name(member) + ": expected a torch.Tensor, got " + Py_TYPE(param)->tp_name);

      py::object gradient = py::reinterpret_steal<py::object>(PyObject_GetAttr(param, grad));
      if (!gradient) throw py::error_already_set();
      if (gradient.is_none()) continue;
      const py::object negated = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(gradient.ptr(), is_neg));
      if (!negated) throw py::error_already_set();
      member.is_negated = negated.ptr() != Py_False;
      member.given[g] = std::move(gradient);
      active_.push_back(count - 1);

      PyObject *key = nullptr, *kept = nullptr;
      const Py_ssize_t before = position;
      if (!PyDict_Next(state.ptr(), &position, &key, &kept) || key != param) {
        position = before;
        kept = PyDict_GetItemWithError(state.ptr(), param);
        if (!kept && PyErr_Occurred()) throw py::error_already_set();
      }
      const py::object dict = py::reinterpret_borrow<py::object>(kept);
      if (!dict || !PyDict_Check(dict.ptr())) continue;
      // With centered, `square_avg` stands there only if it was loaded, and is not what is kept then.
      if (hyper.centered && find(dict.ptr(), square_avg)) continue;
      member.given[t] = find(dict.ptr(), step);
      member.given[s] = find(dict.ptr(), hyper.centered ? variance : square_avg);
      if (hyper.centered) member.given[m] = find(dict.ptr(), grad_avg);
      if (hyper.momentum > 0) member.given[b] = find(dict.ptr(), momentum_buffer);
    }
  }
  members_.resize(count);
}

std::optional<ParamGroups::Memory> ParamGroups::memory_of(const py::object& tensor) const {
  if (!tensor || !PyObject_TypeCheck(tensor.ptr(), reinterpret_cast<PyTypeObject*>(tensor_type_.ptr())))
    return std::nullopt;
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
bool ParamGroups::read(Member& member) {
  const Hyper& hyper = groups_[member.group].hyper;
  Leaf leaf{.hyper = &hyper};

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
  const bool is_half = gradient->element == Element::float16 || gradient->element == Element::bfloat16;
  if (leaf.grad_element != leaf.element && !(leaf.element == Element::float32 && is_half)) return false;

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
  leaf.rho_t = rho_in_step(hyper, steps + 1);

  if (!member.is_fitted && now != member.seen) return false;
  member.seen = now;
  counts_.push_back({count->data, count->element});
  leaves_.push_back(leaf);
  elements_ += leaf.size;
  return true;
}

ParamGroups::Held ParamGroups::bind(const py::list& groups, const py::dict& state, const py::function& fit) {
  Held held(this);
  gather(groups, state);

  std::swap(leaves_, last_leaves_);
  const bool was_disjoint = std::exchange(disjoint_, false);
  std::vector<std::size_t> misfits;
  const auto read_all = [&] {
    leaves_.clear();
    counts_.clear();
    elements_ = 0;
    for (const std::size_t i : active_)
      if (!read(members_[i])) misfits.push_back(i);
  };
  read_all();
  if (!misfits.empty()) {
    for (const std::size_t i : misfits) {
      Member& member = members_[i];
      const py::tuple fitting = fit(member.group, member.index, member.given[g]);
      for (std::size_t part = 0; part < parts; ++part) member.taken[part] = as_tensor(fitting[part]);
      member.is_fitted = true;
    }
    misfits.clear();
    read_all();
    if (!misfits.empty())
      throw std::runtime_error(name(members_[misfits[0]]) + ": expected tensors that stay as they are during a step");
  }

  // Numbers must stay finite in the types that are computed with, which are known now.
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    Element narrowest = Element::float64;
    for (const Leaf& leaf : leaves_)
      if (leaf.hyper == &groups_[i].hyper && leaf.element != Element::float64) narrowest = Element::float32;
    if (std::exchange(groups_[i].narrowest, narrowest) == narrowest) continue;
    groups_[i].values.clear();
    read_options(i);
  }

  const auto same = [](const Leaf& a, const Leaf& b) {
    return a.p == b.p && a.g == b.g && a.s == b.s && a.m == b.m && a.b == b.b && a.size == b.size &&
           a.element == b.element && a.grad_element == b.grad_element;
  };
  if (!was_disjoint || !std::equal(last_leaves_.begin(), last_leaves_.end(), leaves_.begin(), leaves_.end(), same))
    require_no_overlap();
  disjoint_ = true;
  for (std::size_t i = 0; i < leaves_.size(); ++i) leaves_[i].lr_number = groups_[members_[active_[i]].group].lr;
  if (!leaves_.empty() && leaves_[0].hyper->needs_gradient) gradient_.prepare(leaves_);
  return held;
}

void ParamGroups::require_no_overlap() const {
  const auto overlap = find_overlap(leaves_);
  if (!overlap) return;
  const auto describe = [&](const Place& place) {
    const std::string param = name(members_[active_[place.leaf]]);
    if (!place.written) return param + ".grad";
    return place.written == &Leaf::p ? param : "the state of " + param;
  };
  throw py::value_error(describe(overlap->first) + ": overlaps the memory of " + describe(overlap->second) +
                        ", expected tensors apart from each other");
}

void ParamGroups::end_step(bool done) {
  if (!done) ++skipped;
  for (const Count& count : counts_) {
    if (!done) break;
    if (count.element == Element::float64)
      *static_cast<double*>(count.address) += 1;
    else
      *static_cast<float*>(count.address) += 1;
  }
  grad_norm.reset();
  if (!leaves_.empty() && leaves_[0].hyper->needs_gradient) grad_norm = gradient_.norm();
}

py::list ParamGroups::written() const {
  py::list tensors;
  for (const std::size_t i : active_)
    for (const Part part : {p, s, m, b})
      if (const py::object& tensor = members_[i].given[part]) tensors.append(tensor);
  return tensors;
}

}  // namespace rmsprop_fast
