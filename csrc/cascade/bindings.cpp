#include "common/bindings.h"
#include "cascade/operation.h"

namespace py = pybind11;

namespace fastgen {
namespace {

void run_cascade(int64_t rows, int64_t elements, bool float64, uintptr_t work,
                 uintptr_t coefficients, int64_t terms, bool coefficients_per_row, uintptr_t lines,
                 uintptr_t sources, int64_t first, int64_t last,
                 std::optional<std::pair<double, double>> clip,
                 const std::optional<NoiseArguments>& noise, uintptr_t draws, int threads) {
  Cascade op{};
  op.rows = rows;
  op.elements = elements;
  op.float64 = float64;
  op.work = pointer<void>(work);
  op.coefficients = pointer<const double>(coefficients);
  op.terms = terms;
  op.coefficients_per_row = coefficients_per_row;
  op.sums = pointer<const CascadeSum>(lines);
  op.sources = pointer<const int64_t>(sources);
  op.first = first;
  op.last = last;
  if (clip) std::tie(op.low, op.high) = *clip;
  if (noise) op.noise = noise_from(*noise);
  op.draws = pointer<const int64_t>(draws);
  without_gil(op.size() * (last - first), [&] { cascade(op, threads); });
}

}  // namespace

void bind_cascade(py::module_& m) {
  m.def("cascade", &run_cascade, "Sums on the rows of a workspace, one after another.",
        py::kw_only(), py::arg("rows"), py::arg("elements"), py::arg("float64"), py::arg("work"),
        py::arg("coefficients"), py::arg("terms"), py::arg("coefficients_per_row"),
        py::arg("lines"), py::arg("sources"), py::arg("first"), py::arg("last"), py::arg("clip"),
        py::arg("noise"), py::arg("draws"), py::arg("threads"));
}

}  // namespace fastgen
