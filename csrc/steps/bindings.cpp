// One `combine` on tensors that change with every call, as schedulers outside this library make
// it: the layout is described once, the table and every tensor come with the call, and the results
// are new tensors. Everything between Python's call and the kernel is here, because at the sizes
// of latents and actions it is what a step costs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "dispatch.h"

namespace py = pybind11;
using fastgen::DType;

namespace {

// Where releasing the GIL, about 0.1 us, stops being noticeable.
constexpr int64_t RELEASE_GIL_FROM = 16384;
// Positions of the tensors that a call brings; an input from GIVEN on is of the caller's own.
constexpr int GIVEN = 4;

// seeds, number of seeds, sample ids, stream, draws, number of draws
using NoiseArguments = std::tuple<uintptr_t, int64_t, uintptr_t, uint32_t, uintptr_t, int>;

struct Layout {
  fastgen::Combine op{};
  std::vector<int> source;  // of each input: its position, below GIVEN or in the caller's list
  py::object type;          // torch.Tensor: its subclasses may have no memory
  py::tuple dtypes;         // of the inputs, Python objects
  py::tuple shape;
  py::object empty_like;
  std::vector<py::object> made;  // dtypes of the new tensors; None for that of the first given
};

struct Names {
  PyObject* dtype = PyUnicode_InternFromString("dtype");
  PyObject* shape = PyUnicode_InternFromString("shape");
  PyObject* is_cpu = PyUnicode_InternFromString("is_cpu");
  PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
  PyObject* is_contiguous = PyUnicode_InternFromString("is_contiguous");
  PyObject* data_ptr = PyUnicode_InternFromString("data_ptr");
  PyObject* dtype_keyword = PyTuple_Pack(1, dtype);
};

const Names& names() {
  static const Names all;
  return all;
}

py::object owned(PyObject* value) {
  if (!value) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

bool is(PyObject* tensor, PyObject* flag, PyObject* expected) {
  return owned(PyObject_GetAttr(tensor, flag)).ptr() == expected;
}

bool fits(PyObject* tensor, PyObject* dtype, const Layout& layout) {
  const Names& n = names();
  return reinterpret_cast<PyObject*>(Py_TYPE(tensor)) == layout.type.ptr() &&
         is(tensor, n.dtype, dtype) && is(tensor, n.is_cpu, Py_True) &&
         is(tensor, n.requires_grad, Py_False) &&
         PyObject_RichCompareBool(owned(PyObject_GetAttr(tensor, n.shape)).ptr(),
                                  layout.shape.ptr(), Py_EQ) == 1 &&
         owned(PyObject_CallMethodNoArgs(tensor, n.is_contiguous)).ptr() == Py_True;
}

// Of a tensor, or of what the caller owns and knows to be float32 of the layout's shape.
void* address(PyObject* item) {
  if (PyLong_Check(item)) return PyLong_AsVoidPtr(item);
  return PyLong_AsVoidPtr(owned(PyObject_CallMethodNoArgs(item, names().data_ptr)).ptr());
}

py::object make(const Layout& layout, PyObject* like, const py::object& dtype) {
  PyObject* const arguments[] = {like, dtype.ptr()};
  PyObject* const keywords = dtype.is_none() ? nullptr : names().dtype_keyword;
  return owned(PyObject_Vectorcall(layout.empty_like.ptr(), arguments, 1, keywords));
}

// run(table, threads, own, written, given...) -> the new tensors, or None if an input did not fit.
PyObject* run_layout(PyObject* self, PyObject* const* args, Py_ssize_t count) try {
  const auto& layout = *static_cast<Layout*>(PyCapsule_GetPointer(self, nullptr));
  if (count != 4 + GIVEN || !PyTuple_Check(args[2]) || !PyTuple_Check(args[3])) {
    PyErr_SetString(PyExc_TypeError, "expected run(table, threads, own, written, 4 tensors)");
    return nullptr;
  }
  PyObject *const own = args[2], *const written = args[3], *const* given = args + 4;
  fastgen::Combine op = layout.op;
  const int made = static_cast<int>(layout.made.size());
  if (PyTuple_GET_SIZE(written) != op.outputs - made) Py_RETURN_NONE;
  for (int i = 0; i < op.inputs; ++i) {
    const int at = layout.source[i];
    if (at >= GIVEN && at - GIVEN >= PyTuple_GET_SIZE(own)) Py_RETURN_NONE;
    PyObject* item = at < GIVEN ? given[at] : PyTuple_GET_ITEM(own, at - GIVEN);
    const bool good = PyLong_Check(item) ? op.input_type[i] == DType::float32
                                         : fits(item, layout.dtypes[i].ptr(), layout);
    if (!good) Py_RETURN_NONE;
    op.input[i] = address(item);
  }
  // New tensors are like the first given one, so that must be plain even if no sum reads it.
  if (layout.source[0] != 0 && !fits(given[0], layout.dtypes[op.inputs].ptr(), layout))
    Py_RETURN_NONE;
  py::tuple results(made);
  for (int j = 0; j < made; ++j) {
    results[j] = make(layout, given[0], layout.made[j]);
    op.output[j] = address(PyTuple_GET_ITEM(results.ptr(), j));
  }
  for (int j = made; j < op.outputs; ++j)
    op.output[j] = address(PyTuple_GET_ITEM(written, j - made));
  op.table = static_cast<const double*>(PyLong_AsVoidPtr(args[0]));
  const int threads = static_cast<int>(PyLong_AsLong(args[1]));
  if (PyErr_Occurred()) return nullptr;
  if (op.size() < RELEASE_GIL_FROM) {
    fastgen::combine(op, threads);
  } else {
    py::gil_scoped_release release;
    fastgen::combine(op, threads);
  }
  return results.release().ptr();
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
}

DType dtype(int code) {
  if (code < 0 || code > 3) throw std::invalid_argument("unknown dtype code");
  return static_cast<DType>(code);
}

py::object describe_layout(const py::object& type, const py::object& empty_like,
                           const py::tuple& shape, int64_t rows, int64_t elements,
                           const std::vector<int>& source, const py::tuple& dtypes,
                           const std::vector<int>& inputs, const std::vector<int>& outputs,
                           const std::vector<py::object>& made,
                           std::optional<std::pair<double, double>> clip,
                           std::optional<NoiseArguments> noise) {
  if (inputs.size() > fastgen::MAX_INPUTS || outputs.size() > fastgen::MAX_OUTPUTS ||
      inputs.empty() || inputs.size() != source.size() || inputs.size() + 1 != dtypes.size() ||
      made.size() > outputs.size())
    throw std::invalid_argument("inputs, outputs and their dtypes do not match");
  auto layout = std::make_unique<Layout>();
  fastgen::Combine& op = layout->op;
  op.rows = rows;
  op.elements = elements;
  for (const int code : inputs) {
    op.input_type[op.inputs++] = dtype(code);
    op.float64 |= dtype(code) == DType::float64;
  }
  for (const int code : outputs) {
    op.output_type[op.outputs++] = dtype(code);
    op.float64 |= dtype(code) == DType::float64;
  }
  op.clip = clip.has_value();
  if (clip) std::tie(op.low, op.high) = *clip;
  if (noise) {
    const auto& [seeds, seed_count, sample_ids, stream, draws, noises] = *noise;
    if (noises > fastgen::MAX_NOISES) throw std::invalid_argument("too many noises");
    op.noise = {reinterpret_cast<const int64_t*>(seeds), seed_count > 1,
                reinterpret_cast<const int64_t*>(sample_ids), stream};
    op.draws = reinterpret_cast<const int64_t*>(draws);
    op.noises = noises;
  }
  layout->source = source;
  layout->type = type;
  layout->dtypes = dtypes;
  layout->shape = shape;
  layout->empty_like = empty_like;
  layout->made = made;
  static PyMethodDef method{
      "run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(run_layout)),
      METH_FASTCALL, "run(table, threads, own, written, 4 tensors) -> tuple or None"};
  const py::capsule owner(layout.release(), [](void* p) { delete static_cast<Layout*>(p); });
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, owner.ptr()));
}

}  // namespace

void bind_steps(py::module_& m) {
  m.def("describe_layout", &describe_layout, "A function run; see fastgen.kernels.steps.",
        py::arg("type"), py::arg("empty_like"), py::arg("shape"), py::arg("rows"),
        py::arg("elements"), py::arg("source"), py::arg("dtypes"), py::arg("inputs"),
        py::arg("outputs"), py::arg("made"), py::arg("clip"), py::arg("noise"));
}
