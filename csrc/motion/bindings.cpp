#include "bindings.h"

#include <pybind11/stl.h>

#include <tuple>

#include "motion.h"

namespace py = pybind11;
using fastgen::Walker;

namespace {

// seeds, number of seeds, sample ids, stream
using Keys = std::tuple<uintptr_t, int64_t, uintptr_t, uint32_t>;

fastgen::Noise noise(const Keys& keys) {
  fastgen::Noise n{};
  n.seeds = reinterpret_cast<const int64_t*>(std::get<0>(keys));
  n.seed_stride = std::get<1>(keys) > 1;
  n.sample_ids = reinterpret_cast<const int64_t*>(std::get<2>(keys));
  n.stream = std::get<3>(keys);
  return n;
}

}  // namespace

void bind_motion(py::module_& m) {
  py::class_<Walker>(m, "Walker", "Increments along a Brownian path; see csrc/motion/motion.h.")
      .def(py::init([](int64_t rows, int64_t elements, const Keys& keys, int depth, double factor,
                       int64_t memory) {
             return new Walker(rows, elements, noise(keys), depth, factor, memory);
           }),
           py::arg("rows"), py::arg("elements"), py::arg("keys"), py::arg("depth"),
           py::arg("factor"), py::arg("memory"))
      .def(
          "increments",
          [](Walker& walker, const std::vector<double>& times, const std::vector<double>& scales,
             const std::vector<double>& area_scales, uintptr_t output, bool doubles, int threads) {
            py::gil_scoped_release release;
            walker.increments(times, scales, area_scales, reinterpret_cast<void*>(output), doubles,
                              threads);
          },
          py::arg("times"), py::arg("scales"), py::arg("area_scales"), py::arg("output"),
          py::arg("doubles"), py::arg("threads"));
}
