#include "group_options.hpp"

#include <algorithm>
#include <cstdint>

namespace rmsprop_fast {
namespace {

// The hyper-parameters that torch has, and their keys in a group.
struct OptionKey {
  PyObject* key;
  const Option* option;
};

const std::vector<OptionKey>& option_keys() {
  static const std::vector<OptionKey> found = [] {
    std::vector<OptionKey> keys;
    for (const Option& option : options())
      if (option.torch_name) keys.push_back({interned(option.torch_name), &option});
    return keys;
  }();
  return found;
}

bool is_immutable(PyObject* value) {
  return PyFloat_CheckExact(value) || PyLong_CheckExact(value) || PyBool_Check(value) || PyUnicode_CheckExact(value) ||
         value == Py_None;
}

bool is_option(PyObject* key) {
  return std::any_of(option_keys().begin(), option_keys().end(),
                     [&](const OptionKey& option) { return PyUnicode_Compare(option.key, key) == 0; });
}

}  // namespace

// Going through a dict is much faster than looking up its keys, and those that it lacks.
bool GroupOptions::is_as_seen(const py::dict& group) const {
  PyObject *key = nullptr, *value = nullptr;
  std::size_t count = 0;
  for (Py_ssize_t position = 0; PyDict_Next(group.ptr(), &position, &key, &value); ++count)
    if (count >= seen_.size() || key != seen_[count].key.ptr() ||
        (seen_[count].value && value != seen_[count].value.ptr()))
      return false;
  return count > 0 && count == seen_.size();
}

void GroupOptions::see(const py::dict& group) {
  seen_.clear();
  for (const auto& [key, value] : group) {
    const bool is_constant = is_immutable(value.ptr());
    if (!PyUnicode_CheckExact(key.ptr()) || (!is_constant && is_option(key.ptr()))) return seen_.clear();
    seen_.push_back({py::reinterpret_borrow<py::object>(key),
                     is_constant ? py::reinterpret_borrow<py::object>(value) : py::object()});
  }
}

void GroupOptions::read(const py::dict& group, const py::dict& neutral,
                        const std::function<std::string(const char*)>& name) {
  if (is_as_seen(group)) return;
  bool changed = false;
  values_.resize(option_keys().size());
  lacks_.resize(option_keys().size());
  refusals_.resize(option_keys().size());
  try {
    for (std::size_t i = 0; i < values_.size(); ++i) {
      const Option& option = *option_keys()[i].option;
      py::object value = find(group.ptr(), option_keys()[i].key);
      if (value ? value.is(values_[i]) : lacks_[i]) continue;
      changed = true;
      lacks_[i] = !value;
      if (!value) value = find(neutral.ptr(), option_keys()[i].key);
      const std::string full_name = name(option.torch_name);
      if (!value) throw py::value_error(full_name + ": expected a value, got a group without it");
      values_[i] = value;
      if (is_tensor(value)) {
        if (value.attr("numel")().cast<std::int64_t>() != 1)
          throw py::value_error(full_name + ": expected a number or a tensor of one element, got " + quote(value));
        value = value.attr("item")();
      }
      if (option.flag && PyLong_CheckExact(value.ptr())) value = py::bool_(value);  // torch takes 0 and 1, too
      refusals_[i].clear();
      try {
        rmsprop_fast::read(option, value, Element::float32, full_name, hyper_);
      } catch (const py::value_error& refusal) {
        rmsprop_fast::read(option, value, Element::float64, full_name, hyper_);
        refusals_[i] = refusal.what();
      }
    }
    see(group);
    if (!changed) return;
    const auto first = std::find_if(refusals_.begin(), refusals_.end(), [](const auto& text) { return !text.empty(); });
    refusal_ = first == refusals_.end() ? "" : *first;
    require_legal(hyper_, &Option::torch_name);
    derive(hyper_);
  } catch (...) {
    values_.clear();  // so that all is read again
    lacks_.clear();
    seen_.clear();
    throw;
  }
}

void GroupOptions::release() {
  for (py::object& value : values_)
    if (value && !is_immutable(value.ptr())) value = {};
}

}  // namespace rmsprop_fast
