#include "common/bindings.h"
#include "brownian/motion/walker.h"
#include "brownian/operation.h"

namespace py = pybind11;

namespace fastgen {
namespace {

void evaluate_brownian(int64_t rows, int64_t elements, const NoiseArguments& noise, uintptr_t times,
                       int64_t count, bool per_row, int depth, uintptr_t output, int threads) {
  Brownian op{};
  op.rows = rows;
  op.elements = elements;
  op.noise = noise_from(noise);
  op.times = pointer<const double>(times);
  op.times_count = count;
  op.time_stride = per_row ? rows : 1;
  op.times_per_row = per_row;
  op.depth = depth;
  op.output = pointer<double>(output);
  const py::gil_scoped_release release;
  brownian(op, threads);
}

std::unique_ptr<Walker> make_walker(int64_t rows, int64_t elements, const NoiseArguments& keys,
                                    int depth, double factor, int64_t memory) {
  return std::make_unique<Walker>(rows, elements, noise_from(keys), depth, factor, memory);
}

void increments(Walker& walker, const std::vector<double>& times, const std::vector<double>& scales,
                const std::vector<double>& area_scales, uintptr_t output, bool doubles,
                int threads) {
  const py::gil_scoped_release release;
  walker.increments(times, scales, area_scales, pointer<void>(output), doubles, threads);
}

}  // namespace

void bind_brownian(py::module_& m) {
  m.def("brownian", &evaluate_brownian, py::arg("rows"), py::arg("elements"), py::arg("noise"),
        py::arg("times"), py::arg("count"), py::arg("per_row"), py::arg("depth"), py::arg("output"),
        py::arg("threads"));
  py::class_<Walker>(m, "Walker",
                     "Increments along a Brownian path; see csrc/brownian/motion/walker.h.")
      .def(py::init(&make_walker), py::arg("rows"), py::arg("elements"), py::arg("keys"),
           py::arg("depth"), py::arg("factor"), py::arg("memory"))
      .def("increments", &increments, py::arg("times"), py::arg("scales"), py::arg("area_scales"),
           py::arg("output"), py::arg("doubles"), py::arg("threads"));
}

}  // namespace fastgen
