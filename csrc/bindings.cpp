#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "assignment/bindings.h"
#include "dispatch.h"
#include "integrate/bindings.h"
#include "motion/bindings.h"
#include "pool.h"
#include "stochastic/bindings.h"
#include "tensors.h"
#include "sinkhorn/bindings.h"

namespace py = pybind11;
using fastgen::DType;

namespace fastgen {
void bind_bridge(py::module_& m);  // bridge/bindings.cpp
}

namespace {

template <class Operation>
void run(void (*operation)(const Operation&, int), const Operation& op, int threads) {
  if (op.size() < fastgen::RELEASE_GIL_FROM) return operation(op, threads);
  py::gil_scoped_release release;
  operation(op, threads);
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

fastgen::Noise noise(const NoiseArguments& arguments) {
  const auto& [seeds, seed_count, sample_ids, stream] = arguments;
  return {pointer<const int64_t>(seeds), seed_count > 1, pointer<const int64_t>(sample_ids),
          stream};
}

// A described `combine`. Each run brings tensors for the inputs given as None, of these
// kinds and this shape.
struct Description {
  fastgen::Combine op{};
  std::vector<int> missing;
  std::vector<fastgen::Kind> kinds;
  fastgen::Shape shape;
};

// run(threads, tensors) -> whether the tensors fitted, so that it ran. Samplers call this
// thousands of times: as a bare CPython function with the checks in it, it costs a third of
// pybind11's dispatch and the same checks in Python.
PyObject* run_description(PyObject* self, PyObject* const* args, Py_ssize_t count) try {
  const auto& description = *static_cast<Description*>(PyCapsule_GetPointer(self, nullptr));
  if (count != 2 || !PyList_Check(args[1])) {
    PyErr_SetString(PyExc_TypeError, "expected run(threads, list of tensors)");
    return nullptr;
  }
  const size_t missing = description.missing.size();
  if (PyList_GET_SIZE(args[1]) != static_cast<Py_ssize_t>(missing)) Py_RETURN_FALSE;
  fastgen::Combine op = description.op;
  for (size_t i = 0; i < missing; ++i) {
    PyObject* tensor = PyList_GET_ITEM(args[1], i);
    void* address;
    if (!fastgen::memory(tensor, description.kinds[i], description.shape, &address)) Py_RETURN_FALSE;
    op.input[description.missing[i]] = address;
  }
  const long threads = PyLong_AsLong(args[0]);
  if (PyErr_Occurred()) return nullptr;
  run(fastgen::combine, op, static_cast<int>(threads));
  Py_RETURN_TRUE;
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
}

py::object describe_combine(const py::tuple& shape, int64_t rows, int64_t elements,
                            const Inputs& inputs, const py::tuple& missing,
                            const Outputs& outputs, uintptr_t table, bool table_per_row,
                            std::optional<std::pair<double, double>> clip,
                            std::optional<NoiseArguments> noise_arguments, uintptr_t draws,
                            bool draws_per_row, int noises) {
  if (inputs.size() > fastgen::MAX_INPUTS || outputs.size() > fastgen::MAX_OUTPUTS ||
      noises < 0 || noises > fastgen::MAX_NOISES)
    throw std::invalid_argument("too many inputs, outputs or noises");
  auto description = std::make_unique<Description>();
  fastgen::Combine& op = description->op;
  op.rows = rows;
  op.elements = elements;
  for (const auto& [address, code] : inputs) {
    if (!address) description->missing.push_back(op.inputs);
    op.input[op.inputs] = pointer<const void>(address.value_or(0));
    op.input_type[op.inputs++] = fastgen::dtype_of(code);
    op.float64 |= fastgen::dtype_of(code) == DType::float64;
  }
  for (const auto& [address, code] : outputs) {
    op.output[op.outputs] = pointer<void>(address);
    op.output_type[op.outputs++] = fastgen::dtype_of(code);
    op.float64 |= fastgen::dtype_of(code) == DType::float64;
  }
  op.table = pointer<const double>(table);
  op.table_per_row = table_per_row;
  op.clip = clip.has_value();
  if (clip) std::tie(op.low, op.high) = *clip;
  if (noise_arguments) op.noise = noise(*noise_arguments);
  op.draws = pointer<const int64_t>(draws);
  op.draws_per_row = draws_per_row;
  op.noises = noises;

  if (description->missing.size() != missing.size())
    throw std::invalid_argument("missing: expected one dtype for each input that is None");
  for (size_t i = 0; i < missing.size(); ++i)
    description->kinds.push_back({missing[i], op.input_type[description->missing[i]]});
  description->shape = fastgen::Shape(shape);

  static PyMethodDef method{
      "run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(run_description)),
      METH_FASTCALL, "run(threads, tensors for the inputs given as None) -> bool"};
  const py::capsule owner(description.release(),
                          [](void* owned) { delete static_cast<Description*>(owned); });
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, owner.ptr()));
}

void normals(int64_t rows, int64_t elements, const NoiseArguments& arguments, uint32_t draw,
             uintptr_t output, int code, int threads) {
  const fastgen::Normals op{rows,   elements,  noise(arguments), draw, pointer<void>(output),
                            fastgen::dtype_of(code)};
  run(fastgen::normals, op, threads);
}

void brownian(int64_t rows, int64_t elements, const NoiseArguments& arguments, uintptr_t times,
              int64_t count, bool per_row, int depth, uintptr_t output, int threads) {
  const fastgen::Brownian op{rows,    elements,           noise(arguments), pointer<double>(times), count,
                             per_row ? rows : 1, per_row, depth,            pointer<double>(output)};
  py::gil_scoped_release release;
  fastgen::brownian(op, threads);
}

using FourWords = std::array<uint32_t, 4>;

FourWords philox(const FourWords& counter, const std::array<uint32_t, 2>& key) {
  FourWords words;
  fastgen::philox(counter.data(), key.data(), words.data());
  return words;
}

}  // namespace

void bind_registers(py::module_& m);

PYBIND11_MODULE(_C, m) {
  m.doc() = "CPU kernels on raw addresses; nothing is checked here. Use fastgen.kernels.cpp.";
  m.def("use_tensor_type", &fastgen::use_tensor_type,
        "torch.Tensor, and what it has as __dlpack_c_exchange_api__ or None.", py::arg("type"),
        py::arg("exchange"));
  fastgen::isa();  // an unusable FASTGEN_ISA is reported on import
  m.def("describe_combine", &describe_combine, "A function run(threads, tensors) -> bool.",
        py::arg("shape"), py::arg("rows"), py::arg("elements"), py::arg("inputs"),
        py::arg("missing"), py::arg("outputs"), py::arg("table"), py::arg("table_per_row"),
        py::arg("clip"), py::arg("noise"), py::arg("draws"),
        py::arg("draws_per_row"), py::arg("noises"));
  m.def("normals", &normals, py::arg("rows"), py::arg("elements"), py::arg("noise"),
        py::arg("draw"), py::arg("output"), py::arg("dtype"), py::arg("threads"));
  m.def("brownian", &brownian, py::arg("rows"), py::arg("elements"), py::arg("noise"),
        py::arg("times"), py::arg("count"), py::arg("per_row"), py::arg("depth"),
        py::arg("output"), py::arg("threads"));
  fastgen::bind_bridge(m);
  m.def("philox", &philox, "Philox4x32-10 of one counter and key.", py::arg("counter"),
        py::arg("key"));
  bind_integrate(m);
  bind_motion(m);
  fastgen::bind_pool(m);
  bind_stochastic(m);
  m.def("isa", &fastgen::isa, "The instruction set in use.");
  m.def("set_isa", &fastgen::set_isa, "Use another instruction set, for tests and benchmarks.");
  m.def("supported_isas", &fastgen::supported_isas, "Instruction sets this CPU can run.");
  bind_registers(m);
  fastgen::bind_assignment(m);
  fastgen::bind_sinkhorn(m);
}
