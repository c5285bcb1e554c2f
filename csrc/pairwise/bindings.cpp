#include "common/bindings.h"
#include "common/signals.h"
#include "pairwise/operation.h"

namespace py = pybind11;

namespace fastgen {
namespace {

using namespace pairwise;

// work(stop) without the GIL; raises what a handler of a signal did meanwhile.
template <class Work>
void until_interrupted(const Work& work) {
  Signals signals;
  {
    const py::gil_scoped_release release;
    work([&](int thread) { return signals.stop(thread); });
  }
  signals.raise();
}

template <class T>
void reduce_of(int want, int64_t rows, int64_t columns, int64_t dims, uintptr_t x, uintptr_t y,
               uintptr_t bias, double scale, uintptr_t values, int64_t features, uintptr_t seeds,
               bool seed_per_row, uintptr_t sample_ids, uint32_t draw, uint32_t stream,
               uintptr_t log_sum, uintptr_t mean, uintptr_t column, int threads) {
  const Task<T> task{static_cast<Want>(want),
                     rows,
                     columns,
                     dims,
                     pointer<const T>(x),
                     pointer<const T>(y),
                     pointer<const T>(bias),
                     scale,
                     pointer<const T>(values),
                     features,
                     pointer<const int64_t>(seeds),
                     seed_per_row,
                     pointer<const int64_t>(sample_ids),
                     draw,
                     stream,
                     pointer<double>(log_sum),
                     pointer<T>(mean),
                     pointer<int64_t>(column)};
  until_interrupted([&](const Stop& stop) { run(task, threads, stop); });
}

void reduce_pairs(bool float64, int want, int64_t rows, int64_t columns, int64_t dims, uintptr_t x,
                  uintptr_t y, uintptr_t bias, double scale, uintptr_t values, int64_t features,
                  uintptr_t seeds, bool seed_per_row, uintptr_t sample_ids, uint32_t draw,
                  uint32_t stream, uintptr_t log_sum, uintptr_t mean, uintptr_t column,
                  int threads) {
  (float64 ? reduce_of<double> : reduce_of<float>)(want, rows, columns, dims, x, y, bias, scale,
                                                   values, features, seeds, seed_per_row,
                                                   sample_ids, draw, stream, log_sum, mean, column,
                                                   threads);
}

template <class T>
void sweep_of(int64_t rows, int64_t columns, int64_t dims, uintptr_t x, uintptr_t y, uintptr_t bias,
              double scale, uintptr_t log_sum, const Sweep& sweep, uintptr_t terms, int threads) {
  Task<T> task{};
  task.rows = rows;
  task.columns = columns;
  task.dims = dims;
  task.x = pointer<const T>(x);
  task.y = pointer<const T>(y);
  task.bias = pointer<const T>(bias);
  task.scale = scale;
  task.log_sum = pointer<double>(log_sum);
  until_interrupted(
      [&](const Stop& stop) { run_sweep(task, sweep, pointer<T>(terms), threads, stop); });
}

void sweep_pairs(bool float64, int64_t rows, int64_t columns, int64_t dims, uintptr_t x,
                 uintptr_t y, uintptr_t bias, double scale, uintptr_t weights, uintptr_t before,
                 double omega, uintptr_t log_sum, uintptr_t fitted, uintptr_t relaxed,
                 uintptr_t terms, int threads) {
  const Sweep sweep{pointer<const double>(weights), pointer<const double>(before), omega,
                    pointer<double>(fitted), pointer<double>(relaxed)};
  (float64 ? sweep_of<double> : sweep_of<float>)(rows, columns, dims, x, y, bias, scale, log_sum,
                                                 sweep, terms, threads);
}

template <class T>
void again_of(int64_t rows, int64_t columns, uintptr_t terms, uintptr_t factors, uintptr_t known,
              const Sweep& sweep, uintptr_t log_sum, int threads) {
  const Kept<T> kept{pointer<const T>(terms), pointer<const T>(factors),
                     pointer<const double>(known), rows, columns};
  until_interrupted(
      [&](const Stop& stop) { run_again(kept, sweep, pointer<double>(log_sum), threads, stop); });
}

void sweep_kept(bool float64, int64_t rows, int64_t columns, uintptr_t terms, uintptr_t factors,
                uintptr_t known, uintptr_t weights, uintptr_t before, double omega,
                uintptr_t log_sum, uintptr_t fitted, uintptr_t relaxed, int threads) {
  const Sweep sweep{pointer<const double>(weights), pointer<const double>(before), omega,
                    pointer<double>(fitted), pointer<double>(relaxed)};
  (float64 ? again_of<double> : again_of<float>)(rows, columns, terms, factors, known, sweep,
                                                 log_sum, threads);
}

}  // namespace

void bind_pairwise(py::module_& m) {
  m.def("reduce_pairs", &reduce_pairs, "Reductions over all pairs; see csrc/pairwise/operation.h.",
        py::arg("float64"), py::arg("want"), py::arg("rows"), py::arg("columns"), py::arg("dims"),
        py::arg("x"), py::arg("y"), py::arg("bias"), py::arg("scale"), py::arg("values"),
        py::arg("features"), py::arg("seeds"), py::arg("seed_per_row"), py::arg("sample_ids"),
        py::arg("draw"), py::arg("stream"), py::arg("log_sum"), py::arg("mean"), py::arg("column"),
        py::arg("threads"));
  m.def("sweep_pairs", &sweep_pairs,
        "A sweep of Sinkhorn's iteration; see csrc/pairwise/operation.h.", py::arg("float64"),
        py::arg("rows"), py::arg("columns"), py::arg("dims"), py::arg("x"), py::arg("y"),
        py::arg("bias"), py::arg("scale"), py::arg("weights"), py::arg("before"), py::arg("omega"),
        py::arg("log_sum"), py::arg("fitted"), py::arg("relaxed"), py::arg("terms"),
        py::arg("threads"));
  m.def("kept_size", &kept_size, "Numbers that a sweep keeps.", py::arg("rows"),
        py::arg("columns"));
  m.def("sweep_kept", &sweep_kept, "A sweep from kept terms.", py::arg("float64"), py::arg("rows"),
        py::arg("columns"), py::arg("terms"), py::arg("factors"), py::arg("known"),
        py::arg("weights"), py::arg("before"), py::arg("omega"), py::arg("log_sum"),
        py::arg("fitted"), py::arg("relaxed"), py::arg("threads"));
}

}  // namespace fastgen
