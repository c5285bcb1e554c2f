#include "combine/registers.h"

#include "combine/operation.h"
#include "common/bindings.h"

namespace py = pybind11;

namespace fastgen {
namespace {

// A described `combine`. Each run brings tensors for the inputs given as None, of these
// kinds and this shape.
struct Description {
  Combine op{};
  std::vector<int> missing;
  std::vector<Kind> kinds;
  Shape shape;
};

// run(threads, tensors) -> whether the tensors fitted, so that it ran. Samplers call this
// thousands of times.
PyObject* run_description(PyObject* self, PyObject* const* args, Py_ssize_t count) try {
  const auto& description = state_of<Description>(self);
  if (count != 2 || !PyList_Check(args[1])) {
    PyErr_SetString(PyExc_TypeError, "expected run(threads, list of tensors)");
    return nullptr;
  }
  const size_t missing = description.missing.size();
  if (PyList_GET_SIZE(args[1]) != static_cast<Py_ssize_t>(missing)) Py_RETURN_FALSE;
  Combine op = description.op;
  for (size_t i = 0; i < missing; ++i) {
    PyObject* tensor = PyList_GET_ITEM(args[1], i);
    void* address;
    if (!memory(tensor, description.kinds[i], description.shape, &address)) Py_RETURN_FALSE;
    op.input[description.missing[i]] = address;
  }
  const long threads = PyLong_AsLong(args[0]);
  if (PyErr_Occurred()) return nullptr;
  without_gil(op.size(), [&] { combine(op, static_cast<int>(threads)); });
  Py_RETURN_TRUE;
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
}

// Address, dtype code or BOOLEAN, whether there is one for each row.
using PartArguments = std::tuple<uintptr_t, int, bool>;
constexpr int BOOLEAN = -1;

Part part_from(const PartArguments& arguments) {
  const auto& [data, code, per_row] = arguments;
  const bool boolean = code == BOOLEAN;
  return {pointer<const void>(data), boolean ? DType::float32 : dtype_from(code), boolean, per_row};
}

py::object describe_combine(const py::tuple& shape, int64_t rows, int64_t elements,
                            const Inputs& inputs, const py::tuple& missing, const Outputs& outputs,
                            uintptr_t table, bool table_per_row,
                            std::optional<std::pair<double, double>> clip,
                            std::optional<NoiseArguments> noise, uintptr_t draws,
                            bool draws_per_row, int noises, std::optional<PartArguments> known,
                            std::optional<PartArguments> mask) {
  if (inputs.size() > MAX_INPUTS || outputs.size() > MAX_OUTPUTS || noises < 0 ||
      noises > MAX_NOISES)
    throw std::invalid_argument("too many inputs, outputs or noises");
  auto description = std::make_unique<Description>();
  Combine& op = description->op;
  op.rows = rows;
  op.elements = elements;
  set_inputs(op, inputs, &description->missing);
  set_outputs(op, outputs);
  op.table = pointer<const double>(table);
  op.table_per_row = table_per_row;
  op.clip = clip.has_value();
  if (clip) std::tie(op.low, op.high) = *clip;
  if (noise) op.noise = noise_from(*noise);
  op.draws = pointer<const int64_t>(draws);
  op.draws_per_row = draws_per_row;
  op.noises = noises;
  op.known = known.has_value();
  if (op.known != mask.has_value()) throw std::invalid_argument("known: expected a mask too");
  if (known) {
    op.values = part_from(*known);
    op.mask = part_from(*mask);
    if (op.values.boolean) throw std::invalid_argument("known: expected a floating-point dtype");
  }

  if (description->missing.size() != missing.size())
    throw std::invalid_argument("missing: expected one dtype for each input that is None");
  for (size_t i = 0; i < missing.size(); ++i)
    description->kinds.push_back({missing[i], op.input_type[description->missing[i]]});
  description->shape = Shape(shape);
  static PyMethodDef method = bare_method(
      "run", run_description, "run(threads, tensors for the inputs given as None) -> bool");
  return bare_function(method, std::move(description));
}

}  // namespace

void bind_combine(py::module_& m) {
  m.def("describe_combine", &describe_combine, "A function run(threads, tensors) -> bool.",
        py::arg("shape"), py::arg("rows"), py::arg("elements"), py::arg("inputs"),
        py::arg("missing"), py::arg("outputs"), py::arg("table"), py::arg("table_per_row"),
        py::arg("clip"), py::arg("noise"), py::arg("draws"), py::arg("draws_per_row"),
        py::arg("noises"), py::arg("known"), py::arg("mask"));
  m.attr("BOOLEAN") = BOOLEAN;
  bind_registers(m);
}

}  // namespace fastgen
