#include <array>

#include "common/bindings.h"
#include "common/isa.h"
#include "normals/operation.h"

namespace py = pybind11;

namespace fastgen {
namespace {

void draw_normals(int64_t rows, int64_t elements, const NoiseArguments& noise, uint32_t draw,
                  uintptr_t output, int dtype, int threads) {
  const Normals op{
      rows, elements, noise_from(noise), draw, pointer<void>(output), dtype_from(dtype)};
  without_gil(op.size(), [&] { normals(op, threads); });
}

using FourWords = std::array<uint32_t, 4>;

FourWords philox(const FourWords& counter, const std::array<uint32_t, 2>& key) {
  FourWords words;
  kernels<NormalsKernels>().philox(counter.data(), key.data(), words.data());
  return words;
}

}  // namespace

void bind_normals(py::module_& m) {
  m.def("normals", &draw_normals, py::arg("rows"), py::arg("elements"), py::arg("noise"),
        py::arg("draw"), py::arg("output"), py::arg("dtype"), py::arg("threads"));
  m.def("philox", &philox, "Philox4x32-10 of one counter and key.", py::arg("counter"),
        py::arg("key"));
}

}  // namespace fastgen
