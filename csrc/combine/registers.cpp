// One `combine` on tensors that change with every call and registers that live between calls, as
// schedulers outside this library step: everything between Python's call and the kernel is here,
// because at the sizes of latents and actions it is what a step costs.
//
// A register is an entry of the dict `held`: its number, and (tensor, whether its memory is ours).
// A step reads given tensors and registers. It writes new tensors, which it returns, and buffers of
// ours; then it says what the registers are from now on: a given tensor, another register, or what
// was written. Of a two-step method, for example, that is given (d, x) and returns the next x:
//
//     x' = a x + b d + c register 5        register 5 = d
//
// Nothing is copied: registers are renamed. Memory of ours that no register has any more goes to
// the list `free`, where the next step that writes a buffer finds it. What was given is never
// written to.
#include "combine/registers.h"

#include "combine/operation.h"
#include "combine/watch.h"
#include "common/bindings.h"

namespace py = pybind11;

namespace fastgen {
namespace {

// Tensors that a call brings; an input from GIVEN on is register `input - GIVEN`.
constexpr int GIVEN = 4;
// From here on a second thread brings more than it costs.
constexpr int64_t PARALLEL_FROM = 65536;
constexpr int WRITTEN = -1;  // what a register keeps is an output of the call

// Seeds, number of seeds, sample ids, stream, draws, number of draws.
using DrawArguments = std::tuple<uintptr_t, int64_t, uintptr_t, uint32_t, uintptr_t, int>;

struct Kept {
  py::object name;  // of the register, a Python int
  int source;       // below GIVEN a given tensor, from there on another register, or WRITTEN
};

struct Step {
  Combine op{};
  Shape shape;
  std::vector<int> source;        // of each input
  std::vector<py::object> names;  // of each input that is a register, or null
  std::vector<Kind> kinds;        // of the inputs
  Kind first;                     // of the first given tensor
  std::vector<py::object> made;   // dtypes of the new tensors; None for that of the first given
  Kind buffers;                   // registers that are written
  std::vector<Kept> keep;
  bool changes;  // false: the registers stay as they are
  py::object empty_like, thread_count, grad_enabled, table, noise;
};

// A register or a free buffer is a tuple (tensor, whether the buffer is ours).
PyObject* tensor_of(PyObject* entry) { return PyTuple_GET_ITEM(entry, 0); }
bool is_ours(PyObject* entry) { return PyTuple_GET_ITEM(entry, 1) == Py_True; }

struct Names {
  PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
  PyObject* dtype_keyword = PyTuple_Pack(1, py::str("dtype").ptr());
};

const Names& names() {
  static const Names all;
  return all;
}

// The memory of a contiguous CPU tensor of this dtype and the step's shape, which needs no
// gradient; false if it is not one. `graph`: gradients are recorded, so that a tensor may need one.
bool step_memory(const Step& step, bool graph, PyObject* tensor, const Kind& kind, void** address) {
  if (!is_plain(tensor)) return false;
  if (graph && attribute(tensor, names().requires_grad).ptr() != Py_False) return false;
  return memory(tensor, kind, step.shape, address);
}

py::object make(const Step& step, PyObject* like, const py::object& dtype) {
  PyObject* const arguments[] = {like, dtype.ptr()};
  PyObject* const keywords = dtype.is_none() ? nullptr : names().dtype_keyword;
  return owned(PyObject_Vectorcall(step.empty_like.ptr(), arguments, 1, keywords));
}

// A free buffer that fits, or a new one.
py::object buffer(const Step& step, PyObject* free, PyObject* like, void** address) {
  while (PyList_GET_SIZE(free) > 0) {
    const Py_ssize_t last = PyList_GET_SIZE(free) - 1;
    const auto entry = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(free, last));
    if (PyList_SetSlice(free, last, last + 1, nullptr) != 0) throw py::error_already_set();
    if (step_memory(step, false, tensor_of(entry.ptr()), step.buffers, address)) return entry;
  }
  const py::object tensor = make(step, like, step.buffers.dtype);
  *address = data_pointer(tensor.ptr());
  return py::make_tuple(tensor, true);
}

void update(const Step& step, PyObject* held, PyObject* free, PyObject* const* given,
            std::vector<py::object>& written) {
  std::vector<py::object> entries;
  entries.reserve(step.keep.size());
  size_t next = 0;
  for (const Kept& kept : step.keep) {
    if (kept.source == WRITTEN) {
      entries.push_back(std::move(written[next++]));
    } else if (kept.source < GIVEN) {
      entries.push_back(
          py::make_tuple(py::reinterpret_borrow<py::object>(given[kept.source]), false));
    } else {
      PyObject* entry = PyDict_GetItemWithError(held, py::int_(kept.source).ptr());
      if (!entry) throw std::invalid_argument("a register that is to be kept is not held");
      entries.push_back(py::reinterpret_borrow<py::object>(entry));
    }
  }
  PyObject *name, *entry;
  for (Py_ssize_t at = 0; PyDict_Next(held, &at, &name, &entry);) {
    bool kept = !is_ours(entry);
    for (const py::object& other : entries) kept |= other.ptr() == entry;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(free); ++i)  // it was in two registers
      kept |= PyList_GET_ITEM(free, i) == entry;
    if (!kept && PyList_Append(free, entry) != 0) throw py::error_already_set();
  }
  PyDict_Clear(held);
  for (size_t i = 0; i < entries.size(); ++i)
    if (PyDict_SetItem(held, step.keep[i].name.ptr(), entries[i].ptr()) != 0)
      throw py::error_already_set();
}

// run(held, free, given...) -> the new tensors, or None if an input did not fit and nothing ran.
PyObject* run_step(PyObject* self, PyObject* const* args, Py_ssize_t count) try {
  const auto& step = state_of<Step>(self);
  if (count != 2 + GIVEN || !PyDict_CheckExact(args[0]) || !PyList_CheckExact(args[1])) {
    PyErr_SetString(PyExc_TypeError, "expected run(held, free, 4 tensors)");
    return nullptr;
  }
  PyObject *const held = args[0], *const free = args[1], *const *given = args + 2;
  const bool graph = owned(PyObject_CallNoArgs(step.grad_enabled.ptr())).ptr() == Py_True;
  Combine op = step.op;
  py::object alive[MAX_INPUTS];  // registers, while the GIL is released
  for (int i = 0; i < op.inputs; ++i) {
    PyObject* tensor = nullptr;
    if (step.source[i] < GIVEN) {
      tensor = given[step.source[i]];
    } else {
      PyObject* entry = PyDict_GetItemWithError(held, step.names[i].ptr());
      if (!entry) Py_RETURN_NONE;
      alive[i] = py::reinterpret_borrow<py::object>(entry);
      tensor = tensor_of(entry);
    }
    void* address;
    if (!step_memory(step, graph, tensor, step.kinds[i], &address)) Py_RETURN_NONE;
    op.input[i] = address;
  }
  // New tensors are like the first given one, so that must be plain even if no sum reads it.
  void* unread;
  if (step.source[0] != 0 && !step_memory(step, graph, given[0], step.first, &unread))
    Py_RETURN_NONE;
  const int made = static_cast<int>(step.made.size());
  py::tuple results(made);
  for (int j = 0; j < made; ++j) {
    py::object tensor = make(step, given[0], step.made[j]);
    op.output[j] = data_pointer(tensor.ptr());
    PyTuple_SET_ITEM(results.ptr(), j, tensor.release().ptr());
  }
  std::vector<py::object> written(op.outputs - made);
  for (int j = made; j < op.outputs; ++j)
    written[j - made] = buffer(step, free, given[0], &op.output[j]);
  int threads = 1;
  if (op.size() >= PARALLEL_FROM)
    threads =
        static_cast<int>(PyLong_AsLong(owned(PyObject_CallNoArgs(step.thread_count.ptr())).ptr()));
  without_gil(op.size(), [&] { combine(op, threads); });
  if (step.changes && (!step.keep.empty() || PyDict_GET_SIZE(held) > 0))
    update(step, held, free, given, written);
  return results.release().ptr();
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
} catch (const std::exception& error) {
  PyErr_SetString(PyExc_RuntimeError, error.what());
  return nullptr;
}

PyMethodDef STEP = bare_method("run", run_step, "run(held, free, 4 tensors) -> tuple or None");

// unchanged(own) -> whether the attributes are what they were.
PyObject* run_unchanged(PyObject* self, PyObject* const* args, Py_ssize_t count) try {
  if (count != 1 || !PyDict_CheckExact(args[0])) {
    PyErr_SetString(PyExc_TypeError, "expected unchanged(own)");
    return nullptr;
  }
  return PyBool_FromLong(state_of<Watch>(self).unchanged(args[0]));
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
}

PyMethodDef UNCHANGED = bare_method("unchanged", run_unchanged, "unchanged(own) -> bool");

py::object watch(const py::dict& own, const std::vector<py::object>& names) {
  return bare_function(UNCHANGED, std::make_unique<Watch>(own, names));
}

// Whose steps may run as described, for as long as its owner's attributes are unchanged.
struct Followed {
  py::object owner;  // keeps `watch` alive
  const Watch* watch;
  py::dict steps, held;
  py::list free;
};

// follow(own, key, timestep, first, second) -> what the key's step returns, or None.
PyObject* run_followed(PyObject* self, PyObject* const* args, Py_ssize_t count) try {
  const auto& followed = state_of<Followed>(self);
  if (count != 5 || !PyDict_CheckExact(args[0])) {
    PyErr_SetString(PyExc_TypeError, "expected follow(own, key, timestep, first, second)");
    return nullptr;
  }
  if (PyLong_Check(args[2])) Py_RETURN_NONE;
  if (!followed.watch->unchanged(args[0])) Py_RETURN_NONE;
  PyObject* step = PyDict_GetItemWithError(followed.steps.ptr(), args[1]);
  if (!step) {
    if (PyErr_Occurred()) return nullptr;
    Py_RETURN_NONE;
  }
  if (!PyCFunction_CheckExact(step) || PyCFunction_GET_FUNCTION(step) != STEP.ml_meth) {
    PyErr_SetString(PyExc_TypeError, "follow: a step is one that describe_step made");
    return nullptr;
  }
  const auto alive = py::reinterpret_borrow<py::object>(step);
  PyObject* const given[] = {
      followed.held.ptr(), followed.free.ptr(), args[3], args[4], Py_None, Py_None};
  return run_step(PyCFunction_GET_SELF(step), given, 2 + GIVEN);
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
}

PyMethodDef FOLLOW = bare_method("follow", run_followed,
                                 "follow(own, key, timestep, first, second) -> tuple or None");

py::object follow(const py::object& unchanged, const py::dict& steps, const py::dict& held,
                  const py::list& free) {
  PyObject* const function = unchanged.ptr();
  if (!PyCFunction_CheckExact(function) || PyCFunction_GET_FUNCTION(function) != UNCHANGED.ml_meth)
    throw py::type_error("follow: unchanged is what watch returns");
  auto followed = std::make_unique<Followed>();
  followed->owner = unchanged;
  followed->watch = &state_of<Watch>(PyCFunction_GET_SELF(function));
  followed->steps = steps;
  followed->held = held;
  followed->free = free;
  return bare_function(FOLLOW, std::move(followed));
}

py::object describe_step(const py::object& empty_like, const py::object& thread_count,
                         const py::object& grad_enabled, const py::tuple& shape,
                         const std::vector<int>& source,
                         const std::vector<std::pair<py::object, int>>& inputs,
                         const std::vector<std::pair<py::object, int>>& made,
                         const std::pair<py::object, int>& buffers,
                         const std::optional<std::vector<std::pair<int, int>>>& keep,
                         const py::object& table, uintptr_t table_address,
                         std::optional<std::pair<double, double>> clip,
                         const py::object& noise_owner, std::optional<DrawArguments> noise) {
  auto step = std::make_unique<Step>();
  Combine& op = step->op;
  const auto kept = keep.value_or(std::vector<std::pair<int, int>>{});
  size_t written = 0;
  for (const auto& [name, at] : kept) {
    if (at >= static_cast<int>(GIVEN + MAX_INPUTS) || at < WRITTEN)
      throw std::invalid_argument("keep: no such source");
    step->keep.push_back({py::int_(name), at});
    written += at == WRITTEN;
  }
  if (inputs.size() != source.size() + 1 || source.empty() || source.size() > MAX_INPUTS ||
      made.size() + written > MAX_OUTPUTS)
    throw std::invalid_argument("inputs, outputs and their dtypes do not match");
  op.rows = shape[0].cast<int64_t>();
  op.elements = 1;
  step->shape = Shape(shape);
  for (size_t i = 1; i < shape.size(); ++i) op.elements *= step->shape.sizes[i];
  for (const auto& [kind, code] : inputs) step->kinds.push_back({kind, dtype_from(code)});
  step->first = step->kinds.back();
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] < 0) throw std::invalid_argument("source: no such input");
    step->names.push_back(source[i] < GIVEN ? py::object() : py::int_(source[i]));
    op.input_type[op.inputs++] = step->kinds[i].type;
    op.float64 |= step->kinds[i].type == DType::float64;
  }
  for (const auto& [kind, code] : made) {
    step->made.push_back(kind);
    op.output_type[op.outputs++] = dtype_from(code);
  }
  step->buffers = {buffers.first, dtype_from(buffers.second)};
  for (size_t i = 0; i < written; ++i) op.output_type[op.outputs++] = step->buffers.type;
  for (int j = 0; j < op.outputs; ++j) op.float64 |= op.output_type[j] == DType::float64;
  op.table = pointer<const double>(table_address);
  op.clip = clip.has_value();
  if (clip) std::tie(op.low, op.high) = *clip;
  if (noise) {
    const auto& [seeds, seed_count, sample_ids, stream, draws, noises] = *noise;
    if (noises > MAX_NOISES) throw std::invalid_argument("too many noises");
    op.noise = noise_from(seeds, seed_count, sample_ids, stream);
    op.draws = pointer<const int64_t>(draws);
    op.noises = noises;
  }
  step->source = source;
  step->changes = keep.has_value();
  step->empty_like = empty_like;
  step->thread_count = thread_count;
  step->grad_enabled = grad_enabled;
  step->table = table;
  step->noise = noise_owner;
  return bare_function(STEP, std::move(step));
}

}  // namespace

void bind_registers(py::module_& m) {
  m.def("describe_step", &describe_step, "A function run; see fastgen.kernels.combine.registers.",
        py::arg("empty_like"), py::arg("thread_count"), py::arg("grad_enabled"), py::arg("shape"),
        py::arg("source"), py::arg("inputs"), py::arg("made"), py::arg("buffers"), py::arg("keep"),
        py::arg("table"), py::arg("table_address"), py::arg("clip"), py::arg("noise_owner"),
        py::arg("noise"));
  m.def("watch", &watch, "unchanged(own); see fastgen.kernels.combine.registers.", py::arg("own"),
        py::arg("names"));
  m.def("follow", &follow, "A function that runs steps; see fastgen.kernels.combine.registers.",
        py::arg("unchanged"), py::arg("steps"), py::arg("held"), py::arg("free"));
}

}  // namespace fastgen
