// The shape of nested lists, tuples and dicts, and the way from such a tree to its leaves and back.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>
#include <vector>

namespace rmsprop_fast {

namespace py = pybind11;

class Tree {
 public:
  // Learns the shape of `root`, which messages call `name`. A container that appears twice is refused, so no tree is
  // cyclic. Leaves are in order of depth, those of one depth in the order of their containers.
  Tree(py::handle root, const char* name);

  // Appends the nodes of `root`, which must have this shape, to `objects`; leaf i is the node `leaf_nodes()[i]`.
  void flatten(py::handle root, const char* name, std::vector<py::object>& objects) const;

  std::size_t size() const { return nodes_.size(); }
  const std::vector<std::size_t>& leaf_nodes() const { return leaf_nodes_; }

  // The tree of these leaves, in new containers, which refuse to be changed if frozen. Namedtuples and OrderedDicts are
  // such again, other subclasses are not.
  py::object unflatten(const std::vector<py::object>& leaves, bool frozen) const;

  // Calls `show` with all Python objects that are held, for the garbage collector.
  template <class Show>
  void show_objects(const Show& show) const {
    for (const Node& node : nodes_) show(node.key), show(node.type);
  }

  // What messages call a leaf: params['layers'][0]
  std::string leaf_name(const char* root, std::size_t leaf) const;

 private:
  // The nodes lie level by level, the children of a node side by side.
  struct Node {
    PyTypeObject* kind;  // dict, list, tuple, or null for a leaf
    std::size_t parent;
    py::object key;   // the place in the parent: a dict's key or an index
    py::object type;  // of a container: what it comes back as
    std::size_t first_child = 0;
    std::size_t children = 0;
  };

  std::string node_name(const char* root, std::size_t node) const;
  std::string unmatched_key(const Node& node, py::handle dict) const;

  std::vector<Node> nodes_;
  std::vector<std::size_t> leaf_nodes_;
};

}  // namespace rmsprop_fast
