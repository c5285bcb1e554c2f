#include <algorithm>
#include <vector>

#include "dispatch.h"
#include "sinkhorn/stream.h"

namespace fastgen::sinkhorn {
namespace {

const Kernels& kernels() {
#ifdef FASTGEN_X86
  if (isa_level() == Isa::avx512) return avx512_kernels;
  if (isa_level() == Isa::avx2) return avx2_kernels;
#endif
  return baseline_kernels;
}

void run_rows(const Kernels& k, const Task<float>& task, const Packed<float>& packed,
              int64_t begin, int64_t end, float* scratch) {
  k.run_float(task, packed, begin, end, scratch);
}
void run_rows(const Kernels& k, const Task<double>& task, const Packed<double>& packed,
              int64_t begin, int64_t end, double* scratch) {
  k.run_double(task, packed, begin, end, scratch);
}

}  // namespace

template <class T>
void run(const Task<T>& task, int threads) {
  constexpr double LN2 = 0.693147180559945309417232121458;
  const Kernels& table = kernels();
  const int64_t width = sizeof(T) == 4 ? table.width_float : table.width_double;
  const int64_t tiles = (task.columns + TILE - 1) / TILE, padded = tiles * TILE;
  const int64_t features = (task.features + width - 1) / width * width;
  std::vector<T> panels(padded * task.dims), bias(padded, static_cast<T>(2 * NOWHERE));
  std::vector<T> values(padded * features);
  for (int64_t j = 0; j < task.columns; ++j) {
    T* panel = &panels[j / width * width * task.dims + j % width];
    for (int64_t k = 0; k < task.dims; ++k) panel[k * width] = task.y[j * task.dims + k];
    bias[j] = static_cast<T>(task.bias[j] / LN2);
    std::copy_n(task.values + j * task.features, task.features, &values[j * features]);
  }
  const Packed<T> packed{panels.data(), bias.data(), values.data(), tiles, features};
  const int64_t blocks = (task.rows + ROWS - 1) / ROWS;
  threads = static_cast<int>(std::min<int64_t>(std::max(threads, 1), std::max<int64_t>(blocks, 1)));
  std::vector<T> scratch(threads * scratch_size(features));
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int i = 0; i < threads; ++i) {
    const int64_t begin = blocks * i / threads * ROWS, end = blocks * (i + 1) / threads * ROWS;
    run_rows(table, task, packed, begin, std::min(end, task.rows),
             &scratch[i * scratch_size(features)]);
  }
}

template void run<float>(const Task<float>&, int);
template void run<double>(const Task<double>&, int);

}  // namespace fastgen::sinkhorn
