#include "tree.hpp"

#include <algorithm>
#include <unordered_map>

#include "values.hpp"

namespace rmsprop_fast {
namespace {

py::object borrow(PyObject* object) { return py::reinterpret_borrow<py::object>(object); }

// The true size, whatever a subclass answers to len().
std::size_t size_of(PyObject* container) {
  if (PyDict_Check(container)) return static_cast<std::size_t>(PyDict_Size(container));
  if (PyList_Check(container)) return static_cast<std::size_t>(PyList_GET_SIZE(container));
  if (PyTuple_Check(container)) return static_cast<std::size_t>(PyTuple_GET_SIZE(container));
  return 0;
}

// An item of a list or tuple, whatever a subclass says when it is iterated over.
PyObject* item_of(PyObject* sequence, std::size_t index) {
  const auto k = static_cast<Py_ssize_t>(index);
  return PyList_Check(sequence) ? PyList_GET_ITEM(sequence, k) : PyTuple_GET_ITEM(sequence, k);
}

// Null: no container.
PyTypeObject* kind_of(PyObject* object) {
  if (PyDict_Check(object)) return &PyDict_Type;
  if (PyList_Check(object)) return &PyList_Type;
  return PyTuple_Check(object) ? &PyTuple_Type : nullptr;
}

py::object type_object(PyTypeObject* type) { return borrow(reinterpret_cast<PyObject*>(type)); }

// What a container comes back as.
py::object type_of(PyObject* object) {
  if (PyODict_Check(object)) return type_object(&PyODict_Type);
  const bool is_named =
      PyTuple_Check(object) && !PyTuple_CheckExact(object) && PyObject_HasAttrString(object, "_fields");
  return type_object(is_named ? Py_TYPE(object) : kind_of(object));
}

std::string describe(PyTypeObject* kind, std::size_t size) {
  return std::string("a ") + kind->tp_name + " of " + std::to_string(size);
}

}  // namespace

Tree::Tree(py::handle root, const char* name) {
  std::vector<py::object> objects{borrow(root.ptr())};  // one for each node
  nodes_.push_back({kind_of(root.ptr()), 0, py::none(), {}});
  std::unordered_map<PyObject*, std::size_t> seen;

  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const py::object object = objects[i];
    if (!nodes_[i].kind) {
      leaf_nodes_.push_back(i);
      continue;
    }
    nodes_[i].type = type_of(object.ptr());
    nodes_[i].first_child = nodes_.size();
    const auto add_child = [&](const py::object& key, const py::object& child) {
      nodes_.push_back({kind_of(child.ptr()), i, key, {}});
      objects.push_back(child);
    };
    if (nodes_[i].kind == &PyDict_Type) {
      for (const auto& [key, child] : py::reinterpret_borrow<py::dict>(object))
        add_child(borrow(key.ptr()), borrow(child.ptr()));
    } else {
      for (std::size_t k = 0; k < size_of(object.ptr()); ++k) add_child(py::int_(k), borrow(item_of(object.ptr(), k)));
    }
    nodes_[i].children = nodes_.size() - nodes_[i].first_child;
    const auto [first, is_new] = seen.try_emplace(object.ptr(), i);
    if (!is_new && nodes_[i].children > 0)
      throw py::value_error(node_name(name, i) + ": is the same object as " + node_name(name, first->second) +
                            ", expected a tree without cycles in which each container appears once");
  }
}

void Tree::flatten(py::handle root, const char* name, std::vector<py::object>& objects) const {
  const std::size_t first = objects.size();
  objects.reserve(first + nodes_.size());
  objects.push_back(borrow(root.ptr()));

  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    if (!node.kind) continue;  // buffers.cpp says what is wrong with one that is no array
    PyObject* object = objects[first + i].ptr();
    PyTypeObject* const kind = kind_of(object);
    const std::size_t size = size_of(object);
    if (kind != node.kind || size != node.children) {
      const std::string got = kind ? describe(kind, size) : Py_TYPE(object)->tp_name;
      const std::string key = kind == &PyDict_Type && kind == node.kind ? unmatched_key(node, object) : "";
      const std::string message = node_name(name, i) + ": expected " + describe(node.kind, node.children) +
                                  " as in the state, got " + got + key;
      if (kind == node.kind) throw py::value_error(message);
      throw py::type_error(message);
    }
    for (std::size_t k = 0; k < node.children; ++k) {
      PyObject* child = nullptr;
      if (kind == &PyDict_Type) {
        child = PyDict_GetItemWithError(object, nodes_[node.first_child + k].key.ptr());
        if (!child) {
          if (PyErr_Occurred()) throw py::error_already_set();
          throw py::value_error(node_name(name, node.first_child + k) +
                                ": expected as in the state, got a dict without it");
        }
      } else {
        child = item_of(object, k);
      }
      objects.push_back(borrow(child));
    }
  }
}

// The first key that one of both lacks.
std::string Tree::unmatched_key(const Node& node, py::handle dict) const {
  py::set expected;
  for (std::size_t k = 0; k < node.children; ++k) {
    const py::object& key = nodes_[node.first_child + k].key;
    if (!dict.contains(key)) return " without " + quote(key);
    expected.add(key);
  }
  for (const auto& [key, child] : py::reinterpret_borrow<py::dict>(dict))
    if (!expected.contains(key)) return " with " + quote(key);
  return "";
}

py::object Tree::unflatten(const std::vector<py::object>& leaves, bool frozen) const {
  py::dict types;
  if (frozen && nodes_[0].kind) types = py::module_::import("rmsprop_fast.frozen").attr("FROZEN");
  // Children come after their parents, so the last node first.
  std::vector<py::object> objects(nodes_.size());
  for (std::size_t leaf = 0; leaf < leaves.size(); ++leaf) objects[leaf_nodes_[leaf]] = leaves[leaf];
  for (std::size_t i = nodes_.size(); i-- > 0;) {
    const Node& node = nodes_[i];
    if (!node.kind) continue;
    py::tuple children(node.children);
    for (std::size_t k = 0; k < node.children; ++k) children[k] = objects[node.first_child + k];
    if (node.kind == &PyTuple_Type) {
      objects[i] = type_object(&PyTuple_Type).attr("__new__")(node.type, children);
      continue;
    }
    const py::object made = node.type.attr("__new__")(frozen ? types[node.type] : py::object(node.type));
    if (node.kind == &PyList_Type) {
      PyList_SetSlice(made.ptr(), 0, 0, children.ptr());
    } else {
      const auto set = PyODict_Check(made.ptr()) ? PyODict_SetItem : PyDict_SetItem;
      for (std::size_t k = 0; k < node.children; ++k)
        if (set(made.ptr(), nodes_[node.first_child + k].key.ptr(), objects[node.first_child + k].ptr()) != 0)
          throw py::error_already_set();
    }
    objects[i] = made;
  }
  return objects[0];
}

std::string Tree::leaf_name(const char* root, std::size_t leaf) const { return node_name(root, leaf_nodes_[leaf]); }

std::string Tree::node_name(const char* root, std::size_t node) const {
  std::vector<py::handle> path;
  for (; node != 0; node = nodes_[node].parent) path.push_back(nodes_[node].key);
  std::string name = root;
  for (auto key = path.rbegin(); key != path.rend(); ++key) name.append("[").append(quote(*key)).append("]");
  return name;
}

}  // namespace rmsprop_fast
