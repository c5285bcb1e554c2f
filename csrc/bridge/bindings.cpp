#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "bridge/operation.h"
#include "dispatch.h"

namespace py = pybind11;

namespace fastgen {
namespace {

const BridgeKernels& kernels() {
  switch (isa_level()) {
#ifdef FASTGEN_X86
    case Isa::avx512: return bridge_avx512;
    case Isa::avx2: return bridge_avx2;
#endif
    default: return bridge_baseline;
  }
}

// Rows begin at multiples of this, so that no block of noise is computed by two threads twice.
constexpr int64_t ROW_GRAIN = 16;

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

DType dtype(int code) {
  if (code < 0 || code > 3) throw std::invalid_argument("unknown dtype code");
  return static_cast<DType>(code);
}

Sampling sampling(int code) {
  if (code < 0 || code > 2) throw std::invalid_argument("unknown sampling code");
  return static_cast<Sampling>(code);
}

// Address, dtype code, rows, address of the index or 0.
using ChoiceArguments = std::tuple<uintptr_t, int, int64_t, uintptr_t>;
// Seeds, number of seeds, sample ids, stream.
using NoiseArguments = std::tuple<uintptr_t, int64_t, uintptr_t, uint32_t>;

Noise noise(const NoiseArguments& arguments) {
  const auto& [seeds, count, sample_ids, stream] = arguments;
  return {at<const int64_t>(seeds), count > 1, at<const int64_t>(sample_ids), stream};
}

bool bridge(int64_t rows, int64_t elements, const ChoiceArguments& x0, const ChoiceArguments& x1,
            uintptr_t coefficients, bool is_recipe, uintptr_t times, uintptr_t quantiles,
            int64_t cells, int sampling_code, const NoiseArguments& noise_arguments,
            uint32_t time_stream, uintptr_t draw, bool noisy,
            const std::vector<std::pair<uintptr_t, int>>& outputs, uintptr_t times_out,
            int times_type, int threads) {
  if (outputs.size() > MAX_TARGETS) throw std::invalid_argument("too many outputs");
  std::atomic<bool> bad_index{false};
  Bridge op{};
  op.rows = rows;
  op.elements = elements;
  const ChoiceArguments* choices[2] = {&x0, &x1};
  for (int k = 0; k < 2; ++k) {
    const auto& [address, code, count, index] = *choices[k];
    op.x[k] = {at<const void>(address), dtype(code), count, at<const int64_t>(index)};
    op.float64 |= address && dtype(code) == DType::float64;
  }
  (is_recipe ? op.recipe : op.table) = at<const double>(coefficients);
  op.times = at<const double>(times);
  op.quantiles = at<const double>(quantiles);
  op.cells = cells;
  op.sampling = sampling(sampling_code);
  op.noise = noise(noise_arguments);
  op.time_stream = time_stream;
  op.draw = static_cast<uint32_t>(*at<const int64_t>(draw));
  op.noisy = noisy;
  for (const auto& [address, code] : outputs) {
    op.output[op.targets] = at<void>(address);
    op.output_type[op.targets++] = dtype(code);
    op.float64 |= dtype(code) == DType::float64;
  }
  op.times_out = at<void>(times_out);
  op.times_type = dtype(times_type);
  op.bad_index = &bad_index;
  const auto kernel = kernels().bridge;
  {
    py::gil_scoped_release release;
    if (threads <= 1) {
      kernel(op, 0, rows);
    } else {
      const int64_t units = (rows + ROW_GRAIN - 1) / ROW_GRAIN;
#pragma omp parallel for num_threads(threads) schedule(static)
      for (int i = 0; i < threads; ++i) {
        const int64_t first = units * i / threads * ROW_GRAIN;
        const int64_t last = units * (i + 1) / threads * ROW_GRAIN;
        if (first < last) kernel(op, first, last < rows ? last : rows);
      }
    }
  }
  return !bad_index.load();
}

void times(int64_t rows, uintptr_t quantiles, int64_t cells, int sampling_code,
           const NoiseArguments& noise_arguments, uintptr_t draw, uintptr_t output) {
  const Times op{rows,
                 at<const double>(quantiles),
                 cells,
                 sampling(sampling_code),
                 noise(noise_arguments),
                 static_cast<uint32_t>(*at<const int64_t>(draw)),
                 at<double>(output)};
  kernels().times(op, 0, rows);
}

}  // namespace

void bind_bridge(py::module_& m) {
  m.def("bridge", &bridge, "Whether all indices were in range.", py::arg("rows"),
        py::arg("elements"), py::arg("x0"), py::arg("x1"), py::arg("coefficients"),
        py::arg("is_recipe"), py::arg("times"), py::arg("quantiles"), py::arg("cells"),
        py::arg("sampling"), py::arg("noise"), py::arg("time_stream"), py::arg("draw"),
        py::arg("noisy"), py::arg("outputs"), py::arg("times_out"), py::arg("times_type"),
        py::arg("threads"));
  m.def("times", &times, py::arg("rows"), py::arg("quantiles"), py::arg("cells"),
        py::arg("sampling"), py::arg("noise"), py::arg("draw"), py::arg("output"));
}

}  // namespace fastgen
