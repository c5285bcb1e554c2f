#include "common/bindings.h"
#include "gram/operation.h"

namespace py = pybind11;

namespace fastgen {
namespace {

void gram_matrices(int64_t rows, int64_t elements, const Outputs& inputs, uintptr_t output,
                   int threads) {
  if (inputs.empty() || inputs.size() > MAX_BRANCHES)
    throw std::invalid_argument("too many inputs, or none");
  Gram op{};
  op.rows = rows;
  op.elements = elements;
  for (const auto& [address, code] : inputs) {
    op.input[op.inputs] = pointer<const void>(address);
    op.input_type[op.inputs++] = dtype_from(code);
    op.float64 |= dtype_from(code) == DType::float64;
  }
  op.output = pointer<double>(output);
  std::vector<double> partials(rows * op.parts() * op.entries());
  op.partials = partials.data();
  without_gil(op.size(), [&] { gram(op, threads); });
}

}  // namespace

void bind_gram(py::module_& m) {
  m.def("gram", &gram_matrices, py::arg("rows"), py::arg("elements"), py::arg("inputs"),
        py::arg("output"), py::arg("threads"));
}

}  // namespace fastgen
