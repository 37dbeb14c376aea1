// The Python module rmsprop_fast._core. Follow one call from `step` below: buffers -> step -> kernel; or from
// `step_groups`, for PyTorch: param_groups -> step -> kernel.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpus.hpp"
#include "dispatch.hpp"
#include "docs.hpp"
#include "openmp.hpp"
#include "param_groups.hpp"
#include "sparse.hpp"
#include "state.hpp"
#include "step.hpp"
#include "threads.hpp"
#include "workers.hpp"

namespace rmsprop_fast {
namespace {

// From this many elements on, about 20 us, other Python threads may run during a step. For less, the hand-over of the
// interpreter lock costs more than it gives.
constexpr std::size_t large_work = 64 * 1024;

// When the interpreter shuts down, Python before 3.14 ends a daemon thread that asks for the lock by unwinding its
// stack, and what is unwound here would be released without the lock. Such a thread sleeps instead, as it does
// from 3.14 on.
void take_interpreter_lock(PyThreadState* thread) {
  try {
    PyEval_RestoreThread(thread);
  } catch (...) {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

Outcome step_unlocked(const Work& work) {
  if (work.elements < large_work) return step(work);
  PyThreadState* const thread = PyEval_SaveThread();
  try {
    const Outcome outcome = step(work);
    take_interpreter_lock(thread);
    return outcome;
  } catch (...) {  // no memory for the shares of the threads
    take_interpreter_lock(thread);
    throw;
  }
}

State& state_of(PyObject* object) {
  auto* const instance = reinterpret_cast<py::detail::instance*>(object);
  return *static_cast<State*>(instance->get_value_and_holder().value_ptr());
}

// A key of a tree may refer to the state, which refers to it. There is no tp_clear, as with tuples: what a state refers
// to was there before it, or is an array or number and ends there, so something else closes each cycle, and opens it.
void let_collect(PyHeapTypeObject* type) {
  type->ht_type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->ht_type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    int enough = visit(reinterpret_cast<PyObject*>(Py_TYPE(self)), arg);
    const auto show = [&](const py::object& object) { enough = enough || !object ? enough : visit(object.ptr(), arg); };
    if (py::detail::is_holder_constructed(self)) state_of(self).show_objects(show);
    return enough;
  };
}

void step_arrays(py::handle params, py::handle grads, py::handle state_object) {
  static const py::detail::type_info* const type = py::detail::get_type_info(typeid(State));  // found once
  if (Py_TYPE(state_object.ptr()) != type->type)                                              // which is final
    throw py::type_error(std::string("state: expected a rmsprop_fast.State, got ") +
                         Py_TYPE(state_object.ptr())->tp_name);
  State& state = state_of(state_object.ptr());

  const InUse in_use(state.in_use(), "state");
  Buffers& buffers = state.buffers();
  const KernelTable& kernels = dispatch::kernels();
  const auto held = buffers.bind(params, grads);  // every check; nothing has been written so far
  state.begin_step();
  state.end_step(step_unlocked({buffers.leaves(), buffers.elements(), state.hyper(), state.gradient(), kernels}));
}

// pybind11 would answer wrong arguments in words of its own.
std::unique_ptr<State> init(const py::args& positional, const py::kwargs& named) {
  const bool by_name = named.contains("params");
  if (positional.size() + by_name != 1)
    throw py::type_error("init: expected params, and hyper-parameters by name, got " +
                         std::to_string(positional.size()) + " by position" + (by_name ? " and params by name" : ""));
  py::dict hyper = named.attr("copy")();
  const py::object params = by_name ? hyper.attr("pop")("params") : positional[0];
  return std::make_unique<State>(params, hyper);
}

// With arrays alone, Rows are in no reference cycle.
Rows make_rows(const py::object& rows, const py::object& values) {
  for (const auto& [name, array] : {std::pair("rows", rows), std::pair("values", values)})
    if (!py::isinstance<py::array>(array))
      throw py::type_error(std::string("Rows: expected an array as ") + name + ", got " +
                           Py_TYPE(array.ptr())->tp_name);
  return {rows, values};
}

// What bounds a step of these float32 arrays, `passes` times, in the shares that a step's threads would have.
void run_limit(py::handle params, py::handle grads, State& state, bool memory, double passes) {
  const InUse in_use(state.in_use(), "state");
  Buffers& buffers = state.buffers();
  KernelTable only = dispatch::kernels();
  const auto held = buffers.bind(params, grads);
  for (Kernel& update : only.update[static_cast<int>(Element::float32)])
    update = memory ? only.move_streams : only.divide_and_root;
  Hyper hyper;
  hyper.unclipped_multiplier = passes;
  std::vector<Leaf> leaves = buffers.leaves();
  for (Leaf& leaf : leaves) {
    if (leaf.element != Element::float32 || leaf.grad_element != Element::float32 || leaf.hyper->rowwise)
      throw py::type_error("_run_limit: expected float32 arrays, and as many numbers of s");
    leaf.hyper = &hyper;
  }
  step_unlocked({leaves, buffers.elements(), hyper, state.gradient(), only});
}

// A step of a torch optimizer, of all its groups.
void step_groups(ParamGroups& groups, const py::list& param_groups, const py::dict& tensor_state,
                 const py::function& fit, const py::function& norm, int threads) {
  const InUse in_use(groups.in_use(), "optimizer");
  const auto held = groups.bind(param_groups, tensor_state, fit, norm);  // every check; nothing has been written so far
  groups.begin_step();
  groups.end_step(step_unlocked({groups.leaves(), groups.elements(), groups.hyper(), groups.gradient(),
                                 dispatch::kernels(), Pool::openmp, std::max(threads, 1), groups.norm()}));
}

// `step` by the interpreter's own calling convention: pybind11's takes longer than a step of 64 elements.
PyObject* call_step(PyObject*, PyObject* const* arguments, Py_ssize_t positional, PyObject* keywords) {
  static constexpr const char* names[] = {"params", "grads", "state"};
  PyObject* values[3] = {};
  const Py_ssize_t named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
  bool matches = positional + named == 3;
  for (Py_ssize_t i = 0; matches && i < 3; ++i) {
    const char* const* name = names + i;
    if (i >= positional)
      name = std::find_if(names, names + 3, [&](const char* candidate) {
        return PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(keywords, i - positional), candidate) == 0;
      });
    matches = name != names + 3 && !std::exchange(values[name - names], arguments[i]);
  }
  if (!matches) {
    PyErr_SetString(PyExc_TypeError, "step: expected the arguments params, grads, state");
    return nullptr;
  }
  try {
    step_arrays(values[0], values[1], values[2]);
    Py_RETURN_NONE;
  } catch (...) {
    py::detail::try_translate_exceptions();
    return nullptr;
  }
}

void set_num_threads(py::handle count) {
  if (count.is_none()) return threads::set_most(threads::automatic);
  const std::int64_t number = integer(count, 0);
  if (number < 1 || number > threads::highest)
    throw py::value_error("num_threads: expected None or an integer from 1 to " + std::to_string(threads::highest) +
                          ", got " + quote(count));
  threads::set_most(static_cast<int>(number));
}

py::dict info() {
  using namespace py::literals;
  return py::dict("version"_a = RMSPROP_FAST_VERSION, "kernel"_a = dispatch::kernel_name(),
                  "kernels"_a = dispatch::kernel_names(), "threads"_a = threads::most(),
#ifdef _OPENMP
                  "openmp"_a = std::to_string(_OPENMP),
#else
                  "openmp"_a = py::none(),
#endif
                  "compiler"_a = RMSPROP_FAST_COMPILER);
}

}  // namespace
}  // namespace rmsprop_fast

PYBIND11_MODULE(_core, m) {
  using namespace rmsprop_fast;
  using py::arg;

  dispatch::select_from_environment();
  openmp::prepare();
  workers::prepare();
  threads::most();  // what is found once is found under the interpreter lock: no fork can come in between

  py::options pybind11_options;
  pybind11_options.disable_function_signatures();  // docs.hpp gives them in the form that inspect.signature reads

  py::class_<State> state(m, "State", docs::State, py::is_final(), py::custom_type_setup(&let_collect));
  // Only `init` makes states: State.__new__(State) would be one whose C++ part does not exist.
  reinterpret_cast<PyTypeObject*>(state.ptr())->tp_new = nullptr;
  const auto def_kept = [&](const char* attribute, const char* name, const char* doc) {
    state.def_property(
        attribute, [name](State& self) { return self.kept(name); },
        [name](State& self, py::handle tree) { self.restore(name, tree); }, doc);
  };
  def_kept("s", "state.s", docs::State_s);
  def_kept("variance", "state.variance", docs::State_variance);
  def_kept("grad_avg", "state.grad_avg", docs::State_grad_avg);
  def_kept("momentum_buffer", "state.momentum_buffer", docs::State_momentum_buffer);
  def_kept("low_order_bits", "state.low_order_bits", docs::State_low_order_bits);
  state.def_property_readonly("nbytes", &State::nbytes, docs::State_nbytes);
  state.def_property("steps", &State::steps, &State::set_steps, docs::State_steps)
      .def_property("skipped", &State::skipped, &State::set_skipped, docs::State_skipped)
      .def_property_readonly("grad_norm", &State::grad_norm, docs::State_grad_norm)
      .def("__repr__", &State::repr)
      .def("catch_up", &State::catch_up, docs::State_catch_up)
      .def_property_readonly("_last", &State::last, docs::State_last)
      .def("_map", &State::map, docs::State_map, arg("function"))
      .def("_set_grad_norm", &State::set_grad_norm, arg("norm").none(true));
  for (const Option& option : options()) {
    const auto get = [&option](const State& self) { return self.get(option); };
    const std::string doc = docstring(option);
    if (option.only_at_init)
      state.def_property_readonly(option.name, get, doc.c_str());
    else
      state.def_property(
          option.name, get, [&option](State& self, py::handle value) { self.set(option, value); }, doc.c_str());
  }

  py::class_<Rows> rows(m, "Rows", docs::Rows, py::is_final());
  rows.def(py::init(&make_rows), docs::Rows_init, arg("rows"), arg("values"))
      .def_readonly("rows", &Rows::rows, docs::Rows_rows)
      .def_readonly("values", &Rows::values, docs::Rows_values)
      .def("__repr__", [](const Rows& self) { return "Rows(" + quote(self.rows) + ", " + quote(self.values) + ")"; });

  m.def("init", &init, ("init" + signature() + docs::init + parameters() + docs::init_returns).c_str());
  static PyMethodDef raw_methods[] = {{"step", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call_step)),
                                       METH_FASTCALL | METH_KEYWORDS, docs::step},
                                      {}};
  if (PyModule_AddFunctions(m.ptr(), raw_methods) != 0) throw py::error_already_set();

  py::class_<ParamGroups> param_groups(m, "ParamGroups", docs::ParamGroups, py::is_final());
  reinterpret_cast<PyTypeObject*>(param_groups.ptr())->tp_new = nullptr;  // as for State
  param_groups.def("require_legal", &ParamGroups::require_legal_group, docs::ParamGroups_require_legal, arg("group"))
      .def("step", &step_groups, docs::ParamGroups_step, arg("param_groups"), arg("state"), arg("fit"), arg("norm"),
           arg("threads"))
      .def_readonly("skipped", &ParamGroups::skipped)
      .def_readonly("grad_norm", &ParamGroups::grad_norm);

  m.def(
      "param_groups",
      [](const py::dict& neutral, const py::function& increment_version) {
        return std::make_unique<ParamGroups>(neutral, increment_version);
      },
      docs::param_groups, arg("neutral"), arg("increment_version"));
  m.def("misfit", py::overload_cast<const std::string&, const py::object&, const py::object&>(&misfit), docs::misfit,
        arg("part"), arg("tensor"), arg("like"));

  m.def("code_bytes", &code_bytes, docs::code_bytes, arg("params"));
  m.def("pack_codes", &pack_codes, docs::pack_codes, arg("params"), arg("numbers"), arg("codes"), arg("is_signed"));
  m.def("unpack_codes", &unpack_codes, docs::unpack_codes, arg("params"), arg("codes"), arg("numbers"),
        arg("is_signed"));

  // Or an object's __class__ could become another one, and find no C++ part of its own.
  for (const py::handle type : {py::handle(state), py::handle(rows), py::handle(param_groups)})
    reinterpret_cast<PyTypeObject*>(type.ptr())->tp_flags |= Py_TPFLAGS_IMMUTABLETYPE;

  m.def("kernels", &dispatch::kernel_names, docs::kernels);
  m.def("get_kernel", &dispatch::kernel_name, docs::get_kernel);
  m.def("set_kernel", &dispatch::select, docs::set_kernel, arg("name"));
  m.def("get_num_threads", &threads::most, docs::get_num_threads);
  m.def("set_num_threads", &set_num_threads, docs::set_num_threads, arg("num_threads"));
  m.def("info", &info, docs::info);
  m.attr("__version__") = RMSPROP_FAST_VERSION;

  // What torch calls the arrays that are kept, in the order in which ParamGroups.step asks for them.
  py::tuple torch_names(std::size(kept_arrays));
  for (std::size_t i = 0; i < std::size(kept_arrays); ++i) torch_names[i] = kept_arrays[i].torch_name;
  m.attr("KEPT") = torch_names;

  // For tests and benchmarks: threads for small work, what bounds a step, other machines' limits.
  m.def("_share", &threads::share);
  m.def("_set_share", &threads::set_share, arg("elements"));
  m.def("_run_limit", &run_limit, arg("params"), arg("grads"), arg("state"), arg("memory"), arg("passes"));
  m.def("_usable_cpus", py::overload_cast<const std::string&>(&usable_cpus), arg("root"));
}
