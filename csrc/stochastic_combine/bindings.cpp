#include "common/bindings.h"
#include "stochastic_combine/operation.h"

namespace py = pybind11;

namespace fastgen {
namespace {

// A call with all but some tensors fixed. The step says which of the tables and draws it uses.
struct Description {
  StochasticCombine op{};
  int64_t steps = 1, table_stride = 0, draws_stride = 0;
  std::vector<int> missing;  // inputs, or MAX_INPUTS + k for given noise k
  std::vector<Kind> kinds;
  Shape shape;
};

// run(threads, step, tensors) -> whether the tensors fitted, so that it ran. Called once or more
// in every step of a solve.
PyObject* run_description(PyObject* self, PyObject* const* args, Py_ssize_t count) try {
  const auto& description = state_of<Description>(self);
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
  StochasticCombine op = description.op;
  for (size_t i = 0; i < missing; ++i) {
    PyObject* tensor = PyList_GET_ITEM(args[2], i);
    void* data;
    if (!memory(tensor, description.kinds[i], description.shape, &data)) Py_RETURN_FALSE;
    const int place = description.missing[i];
    (place < MAX_INPUTS ? op.input[place] : op.given[place - MAX_INPUTS]) = data;
  }
  op.table += step * description.table_stride;
  op.draws += step * description.draws_stride;
  without_gil(op.size(), [&] { stochastic_combine(op, static_cast<int>(threads)); });
  Py_RETURN_TRUE;
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
}

py::object describe_stochastic(const py::tuple& shape, int64_t rows, int64_t elements,
                               const Inputs& inputs, const py::tuple& missing,
                               const Outputs& outputs, uintptr_t tables, int64_t steps,
                               bool table_per_row, const Inputs& given,
                               const std::optional<NoiseArguments>& noise, uintptr_t draws,
                               bool draws_per_row, int noises) {
  if (inputs.size() > MAX_INPUTS || outputs.size() > MAX_OUTPUTS || given.size() > 2 ||
      noises < 0 || noises > 2)
    throw std::invalid_argument("too many inputs, outputs or noises");
  auto description = std::make_unique<Description>();
  StochasticCombine& op = description->op;
  op.rows = rows;
  op.elements = elements;
  set_inputs(op, inputs, &description->missing);
  for (size_t k = 0; k < given.size(); ++k) {
    const auto& [address, code] = given[k];
    if (!address) description->missing.push_back(MAX_INPUTS + static_cast<int>(k));
    op.given[k] = pointer<const void>(address.value_or(0));
    op.given_type[k] = dtype_from(code);
  }
  set_outputs(op, outputs);
  op.table = pointer<const double>(tables);
  op.table_per_row = table_per_row;
  if (noise) op.noise = noise_from(*noise);
  op.draws = pointer<const int64_t>(draws);
  op.draws_per_row = draws_per_row;
  op.noises = noises;
  description->steps = steps;
  const int64_t table_rows = table_per_row ? rows : 1;
  description->table_stride = table_rows * op.outputs * op.inputs * MONOMIALS;
  description->draws_stride = (draws_per_row ? rows : 1) * noises;
  if (description->missing.size() != missing.size())
    throw std::invalid_argument("missing: expected one dtype for each tensor that is None");
  for (size_t i = 0; i < missing.size(); ++i) {
    const int place = description->missing[i];
    const DType type =
        place < MAX_INPUTS ? op.input_type[place] : op.given_type[place - MAX_INPUTS];
    description->kinds.push_back({missing[i], type});
  }
  description->shape = Shape(shape);

  static PyMethodDef method = bare_method(
      "run", run_description, "run(threads, step, tensors for those given as None) -> bool");
  return bare_function(method, std::move(description));
}

}  // namespace

void bind_stochastic_combine(py::module_& m) {
  m.def("describe_stochastic", &describe_stochastic,
        "A function run(threads, step, tensors) -> bool.", py::kw_only(), py::arg("shape"),
        py::arg("rows"), py::arg("elements"), py::arg("inputs"), py::arg("missing"),
        py::arg("outputs"), py::arg("tables"), py::arg("steps"), py::arg("table_per_row"),
        py::arg("given"), py::arg("noise"), py::arg("draws"), py::arg("draws_per_row"),
        py::arg("noises"));
}

}  // namespace fastgen
