// One `combine` on tensors that change with every call, as schedulers outside this library make
// it: the layout is described once, the table and every tensor come with the call.
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

struct Layout {
  fastgen::Combine op{};
  py::object type;   // torch.Tensor: its subclasses may have no memory, or mean something else
  py::tuple dtypes;  // of the inputs, Python objects
  py::tuple shape;
};

// seeds, number of seeds, sample ids, stream, draws, number of draws
using NoiseArguments = std::tuple<uintptr_t, int64_t, uintptr_t, uint32_t, uintptr_t, int>;

py::object attribute(PyObject* object, PyObject* name) {
  PyObject* value = PyObject_GetAttr(object, name);
  if (!value) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

py::object call(PyObject* object, PyObject* method) {
  PyObject* value = PyObject_CallMethodNoArgs(object, method);
  if (!value) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

bool fits(PyObject* tensor, PyObject* type, PyObject* dtype, PyObject* shape) {
  if (reinterpret_cast<PyObject*>(Py_TYPE(tensor)) != type) return false;
  static PyObject* const DTYPE = PyUnicode_InternFromString("dtype");
  static PyObject* const SHAPE = PyUnicode_InternFromString("shape");
  static PyObject* const IS_CPU = PyUnicode_InternFromString("is_cpu");
  static PyObject* const IS_CONTIGUOUS = PyUnicode_InternFromString("is_contiguous");
  return attribute(tensor, DTYPE).ptr() == dtype && attribute(tensor, IS_CPU).ptr() == Py_True &&
         PyObject_RichCompareBool(attribute(tensor, SHAPE).ptr(), shape, Py_EQ) == 1 &&
         call(tensor, IS_CONTIGUOUS).ptr() == Py_True;
}

// A tensor, or its address where the caller owns it and needs no check.
void* address(PyObject* item) {
  static PyObject* const DATA_PTR = PyUnicode_InternFromString("data_ptr");
  return PyLong_AsVoidPtr(PyLong_Check(item) ? item : call(item, DATA_PTR).ptr());
}

// run(table, threads, inputs, outputs) -> whether the inputs fitted, so that it ran. Addresses
// are of float32, and the caller answers for their shape.
PyObject* run_layout(PyObject* self, PyObject* const* args, Py_ssize_t count) try {
  const auto& layout = *static_cast<Layout*>(PyCapsule_GetPointer(self, nullptr));
  if (count != 4 || !PyList_Check(args[2]) || !PyList_Check(args[3])) {
    PyErr_SetString(PyExc_TypeError, "expected run(table, threads, inputs, outputs)");
    return nullptr;
  }
  fastgen::Combine op = layout.op;
  if (PyList_GET_SIZE(args[2]) != op.inputs || PyList_GET_SIZE(args[3]) != op.outputs)
    Py_RETURN_FALSE;
  for (int i = 0; i < op.inputs; ++i) {
    PyObject* item = PyList_GET_ITEM(args[2], i);
    if (PyLong_Check(item) ? op.input_type[i] != DType::float32
                           : !fits(item, layout.type.ptr(), layout.dtypes[i].ptr(), layout.shape.ptr()))
      Py_RETURN_FALSE;
    op.input[i] = address(item);
  }
  for (int j = 0; j < op.outputs; ++j) op.output[j] = address(PyList_GET_ITEM(args[3], j));
  op.table = static_cast<const double*>(PyLong_AsVoidPtr(args[0]));
  const int threads = static_cast<int>(PyLong_AsLong(args[1]));
  if (PyErr_Occurred()) return nullptr;
  if (op.size() < RELEASE_GIL_FROM) {
    fastgen::combine(op, threads);
  } else {
    py::gil_scoped_release release;
    fastgen::combine(op, threads);
  }
  Py_RETURN_TRUE;
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
}

DType dtype(int code) {
  if (code < 0 || code > 3) throw std::invalid_argument("unknown dtype code");
  return static_cast<DType>(code);
}

py::object describe_layout(const py::object& type, const py::tuple& shape, int64_t rows, int64_t elements,
                           const py::tuple& dtypes, const std::vector<int>& inputs,
                           const std::vector<int>& outputs,
                           std::optional<std::pair<double, double>> clip,
                           std::optional<NoiseArguments> noise) {
  if (inputs.size() > fastgen::MAX_INPUTS || outputs.size() > fastgen::MAX_OUTPUTS ||
      inputs.size() != dtypes.size())
    throw std::invalid_argument("too many inputs or outputs, or not a dtype for each input");
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
  layout->type = type;
  layout->dtypes = dtypes;
  layout->shape = shape;
  static PyMethodDef method{
      "run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(run_layout)),
      METH_FASTCALL, "run(table, threads, inputs, outputs) -> bool"};
  const py::capsule owner(layout.release(), [](void* owned) { delete static_cast<Layout*>(owned); });
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, owner.ptr()));
}

}  // namespace

void bind_steps(py::module_& m) {
  m.def("describe_layout", &describe_layout,
        "A function run(table, threads, inputs, outputs) -> bool.", py::arg("type"), py::arg("shape"),
        py::arg("rows"), py::arg("elements"), py::arg("dtypes"), py::arg("inputs"),
        py::arg("outputs"), py::arg("clip"), py::arg("noise"));
}
