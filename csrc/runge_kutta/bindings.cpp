#include "common/bindings.h"
#include "runge_kutta/stepper.h"

namespace py = pybind11;

namespace fastgen {
namespace {

// A stepper and what slopes must be.
struct Bound {
  Stepper stepper;
  Kind kind;
  Shape shape;
};
using Owner = std::shared_ptr<Bound>;
// Addresses of compiled functions, and what they are called with.
using Calls = std::vector<std::pair<uintptr_t, std::vector<int64_t>>>;

// The address of float64 numbers, and the stride from one sample's to the next.
using Given = std::pair<uintptr_t, int64_t>;

Stepper::Numbers numbers_from(const Given& given) {
  return {pointer<const double>(given.first), given.second};
}

// f as compiled calls, and where they leave it.
struct Program {
  std::vector<CompiledCall> calls;
  const void* slope;
  Program(const Calls& f, uintptr_t slope) : slope(pointer<const void>(slope)) {
    for (const auto& [code, arguments] : f) calls.emplace_back(code, arguments);
  }
};

// advance(slope) -> code, or -1 where the slope does not fit. Called once for every evaluation of
// the vector field.
PyObject* advance(PyObject* self, PyObject* slope) try {
  Bound& bound = *state_of<Owner>(self);
  void* data;
  if (!memory(slope, bound.kind, bound.shape, &data)) return PyLong_FromLong(-1);
  Stepper& stepper = bound.stepper;
  const int64_t elements = stepper.op.rows * stepper.op.elements;
  const int code = without_gil(elements, [&] { return stepper.advance(data); });
  return PyLong_FromLong(code);
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
}

Owner make(int64_t rows, int64_t elements, int stages, int degree, int segments, int64_t outputs,
           int64_t output_stride, int64_t live_stride, bool float64,
           const std::vector<uintptr_t>& tables, const std::vector<uintptr_t>& tensors,
           const std::vector<double>& step_size, int64_t max_steps, bool compact,
           bool first_step_given, int threads) {
  if (tables.size() != 7 || tensors.size() != 8 || step_size.size() != 9)
    throw std::invalid_argument("Stepper: expected 7 tables, 8 tensors and 9 numbers");
  if (stages < 2 || stages > MAX_STAGES || degree < 2)
    throw std::invalid_argument("Stepper: too few or too many stages");
  auto bound = std::make_shared<Bound>();
  Integration& op = bound->stepper.op;
  op.rows = op.capacity = rows;
  op.elements = elements;
  op.stages = stages;
  op.degree = degree;
  op.segments = segments;
  op.outputs = outputs;
  op.output_stride = output_stride;
  op.live_stride = live_stride;
  op.float64 = float64;
  op.a = pointer<const double>(tables[0]);
  op.c = pointer<const double>(tables[1]);
  op.error = pointer<const double>(tables[2]);
  op.dense = pointer<const double>(tables[3]);
  op.segment_ends = pointer<const int64_t>(tables[4]);
  op.output_times = pointer<const double>(tables[5]);
  op.live = pointer<const int64_t>(tables[6]);
  op.y = pointer<void>(tensors[0]);
  op.y_new = pointer<void>(tensors[1]);
  op.k = pointer<void>(tensors[2]);
  op.stage = pointer<void>(tensors[3]);
  op.stage_times = pointer<void>(tensors[4]);
  op.ys = pointer<void>(tensors[5]);
  op.control = pointer<double>(tensors[6]);
  op.count = pointer<int64_t>(tensors[7]);
  StepSize& s = op.step_size;
  s = {step_size[0], step_size[1], step_size[2], step_size[3], step_size[4], {}, 0, max_steps};
  for (int i = 0; i < 3; ++i) s.beta[i] = step_size[5 + i];
  s.order = step_size[8];
  bound->stepper.compact = compact;
  bound->stepper.first_step_given = first_step_given;
  bound->stepper.threads = threads;
  return bound;
}

template <Stepper::RowsKernel KERNEL>
void run(Bound& bound) {
  bound.stepper.run(KERNEL);
}

constexpr Stepper::RowsKernel CONTROL = &RungeKuttaKernels::control,
                              COMMIT = &RungeKuttaKernels::commit,
                              PROBE = &RungeKuttaKernels::probe, FIRST = &RungeKuttaKernels::first,
                              START = &RungeKuttaKernels::start;

}  // namespace

void bind_runge_kutta(py::module_& m) {
  py::class_<Program>(m, "Program", "Compiled functions by address, and where they leave a slope.")
      .def(py::init<const Calls&, uintptr_t>());
  py::class_<Bound, Owner>(m, "Stepper", "Runge-Kutta steps on raw addresses.")
      .def(py::init(&make), py::kw_only(), py::arg("rows"), py::arg("elements"), py::arg("stages"),
           py::arg("degree"), py::arg("segments"), py::arg("outputs"), py::arg("output_stride"),
           py::arg("live_stride"), py::arg("float64"), py::arg("tables"), py::arg("tensors"),
           py::arg("step_size"), py::arg("max_steps"), py::arg("compact"),
           py::arg("first_step_given"), py::arg("threads"))
      .def("begin",
           [](Bound& bound, uintptr_t ys, const Given& rtol, const Given& atol,
              const Given& first_step) {
             bound.stepper.begin(pointer<void>(ys), numbers_from(rtol), numbers_from(atol),
                                 numbers_from(first_step));
           })
      .def("far", [](const Bound& bound, double steps) { return bound.stepper.far(steps); })
      .def("stage", [](Bound& bound, int i) { bound.stepper.stage(i); })
      .def("control", &run<CONTROL>)
      .def("commit", &run<COMMIT>)
      .def("probe", &run<PROBE>)
      .def("first", &run<FIRST>)
      .def("start", &run<START>)
      .def("compacted", [](Bound& bound) { return bound.stepper.compacted(); })
      .def("drive",
           [](Bound& bound, const Program& f, int64_t until) {
             const py::gil_scoped_release release;
             return bound.stepper.drive(f.calls, f.slope, until);
           })
      .def("expect",
           [](Bound& bound, py::object dtype, int code, const py::tuple& shape) {
             bound.kind = {std::move(dtype), dtype_from(code)};
             bound.shape = Shape(shape);
           })
      .def_property_readonly("rows", [](const Bound& b) { return b.stepper.op.rows; })
      .def_property_readonly("phase", [](const Bound& b) { return b.stepper.phase; })
      .def_property_readonly("calls", [](const Bound& b) { return b.stepper.calls; })
      .def_property_readonly("evaluated", [](const Bound& b) { return b.stepper.evaluated; })
      .def_property_readonly("advance", [](const Owner& bound) {
        static PyMethodDef method{"advance", advance, METH_O, "advance(slope) -> code"};
        return bare_function(method, std::make_unique<Owner>(bound));
      });
}

}  // namespace fastgen
