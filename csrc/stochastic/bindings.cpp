#include "bindings.h"

#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "stochastic.h"
#include "tensors.h"

namespace py = pybind11;
using fastgen::DType;
using fastgen::Stochastic;

namespace {

// A call with all but some tensors fixed. The step says which of the tables and draws it uses.
struct Description {
  Stochastic op{};
  int64_t steps = 1, table_stride = 0, draws_stride = 0;
  std::vector<int> missing;  // inputs, or MAX_INPUTS + k for given noise k
  std::vector<fastgen::Kind> kinds;
  fastgen::Shape shape;
};

// run(threads, step, tensors) -> whether the tensors fitted, so that it ran. Called once or more
// in every step of a solve: a bare CPython function costs a third of pybind11's dispatch.
PyObject* run_description(PyObject* self, PyObject* const* args, Py_ssize_t count) try {
  const auto& description = *static_cast<Description*>(PyCapsule_GetPointer(self, nullptr));
  if (count != 3 || !PyList_Check(args[2])) {
    PyErr_SetString(PyExc_TypeError, "expected run(threads, step, list of tensors)");
    return nullptr;
  }
  const long threads = PyLong_AsLong(args[0]);
  const int64_t step = PyLong_AsLongLong(args[1]);
  if (PyErr_Occurred()) return nullptr;
  if (step < 0 || step >= description.steps) {
    PyErr_SetString(PyExc_IndexError, "step: outside of the tables");
    return nullptr;
  }
  const size_t missing = description.missing.size();
  if (PyList_GET_SIZE(args[2]) != static_cast<Py_ssize_t>(missing)) Py_RETURN_FALSE;
  Stochastic op = description.op;
  for (size_t i = 0; i < missing; ++i) {
    PyObject* tensor = PyList_GET_ITEM(args[2], i);
    void* data;
    if (!fastgen::memory(tensor, description.kinds[i], description.shape, &data)) Py_RETURN_FALSE;
    const int place = description.missing[i];
    (place < fastgen::MAX_INPUTS ? op.input[place] : op.given[place - fastgen::MAX_INPUTS]) = data;
  }
  op.table += step * description.table_stride;
  op.draws += step * description.draws_stride;
  if (op.size() < fastgen::RELEASE_GIL_FROM) {
    fastgen::stochastic_combine(op, static_cast<int>(threads));
  } else {
    py::gil_scoped_release release;
    fastgen::stochastic_combine(op, static_cast<int>(threads));
  }
  Py_RETURN_TRUE;
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
}

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Addresses and dtype codes.
using Inputs = std::vector<std::pair<std::optional<uintptr_t>, int>>;
using Outputs = std::vector<std::pair<uintptr_t, int>>;
// seeds, number of seeds, sample ids, stream
using NoiseArguments = std::tuple<uintptr_t, int64_t, uintptr_t, uint32_t>;

py::object describe_stochastic(const py::tuple& shape, int64_t rows, int64_t elements,
                               const Inputs& inputs, const py::tuple& missing,
                               const Outputs& outputs, uintptr_t tables, int64_t steps,
                               bool table_per_row, const Inputs& given,
                               const std::optional<NoiseArguments>& noise, uintptr_t draws,
                               bool draws_per_row, int noises) {
  if (inputs.size() > fastgen::MAX_INPUTS || outputs.size() > fastgen::MAX_OUTPUTS ||
      given.size() > 2 || noises < 0 || noises > 2)
    throw std::invalid_argument("too many inputs, outputs or noises");
  auto description = std::make_unique<Description>();
  Stochastic& op = description->op;
  op.rows = rows;
  op.elements = elements;
  for (const auto& [address, code] : inputs) {
    if (!address) description->missing.push_back(op.inputs);
    op.input[op.inputs] = pointer<const void>(address.value_or(0));
    op.input_type[op.inputs++] = fastgen::dtype_of(code);
    op.float64 |= fastgen::dtype_of(code) == DType::float64;
  }
  for (size_t k = 0; k < given.size(); ++k) {
    const auto& [address, code] = given[k];
    if (!address) description->missing.push_back(fastgen::MAX_INPUTS + static_cast<int>(k));
    op.given[k] = pointer<const void>(address.value_or(0));
    op.given_type[k] = fastgen::dtype_of(code);
  }
  for (const auto& [address, code] : outputs) {
    op.output[op.outputs] = pointer<void>(address);
    op.output_type[op.outputs++] = fastgen::dtype_of(code);
    op.float64 |= fastgen::dtype_of(code) == DType::float64;
  }
  op.table = pointer<const double>(tables);
  op.table_per_row = table_per_row;
  if (noise) {
    const auto& [seeds, seed_count, sample_ids, stream] = *noise;
    op.noise = {pointer<const int64_t>(seeds), seed_count > 1, pointer<const int64_t>(sample_ids),
                stream};
  }
  op.draws = pointer<const int64_t>(draws);
  op.draws_per_row = draws_per_row;
  op.noises = noises;
  description->steps = steps;
  const int64_t table_rows = table_per_row ? rows : 1;
  description->table_stride = table_rows * op.outputs * op.inputs * fastgen::MONOMIALS;
  description->draws_stride = (draws_per_row ? rows : 1) * noises;
  if (description->missing.size() != missing.size())
    throw std::invalid_argument("missing: expected one dtype for each tensor that is None");
  for (size_t i = 0; i < missing.size(); ++i) {
    const int place = description->missing[i];
    const DType type = place < fastgen::MAX_INPUTS ? op.input_type[place]
                                                   : op.given_type[place - fastgen::MAX_INPUTS];
    description->kinds.push_back({missing[i], type});
  }
  description->shape = fastgen::Shape(shape);

  static PyMethodDef method{
      "run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(run_description)),
      METH_FASTCALL, "run(threads, step, tensors for those given as None) -> bool"};
  const py::capsule owner(description.release(),
                          [](void* owned) { delete static_cast<Description*>(owned); });
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, owner.ptr()));
}

}  // namespace

void bind_stochastic(py::module_& m) {
  m.def("describe_stochastic", &describe_stochastic,
        "A function run(threads, step, tensors) -> bool.", py::kw_only(), py::arg("shape"),
        py::arg("rows"), py::arg("elements"), py::arg("inputs"), py::arg("missing"),
        py::arg("outputs"), py::arg("tables"), py::arg("steps"), py::arg("table_per_row"),
        py::arg("given"), py::arg("noise"), py::arg("draws"), py::arg("draws_per_row"),
        py::arg("noises"));
}
