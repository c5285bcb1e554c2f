#include "pairwise/operation.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/isa.h"
#include "common/parallel.h"

namespace fastgen::pairwise {
namespace {

void run_rows(const Kernels& k, const Task<float>& task, const Packed<float>& packed, int64_t begin,
              int64_t end, float* scratch) {
  k.run_float(task, packed, begin, end, scratch);
}
void run_rows(const Kernels& k, const Task<double>& task, const Packed<double>& packed,
              int64_t begin, int64_t end, double* scratch) {
  k.run_double(task, packed, begin, end, scratch);
}

void sweep_rows(const Kernels& k, const Task<float>& task, const Packed<float>& packed,
                const Sweep& sweep, int64_t begin, int64_t end, float* scratch, float* terms) {
  k.sweep_float(task, packed, sweep, begin, end, scratch, terms);
}
void sweep_rows(const Kernels& k, const Task<double>& task, const Packed<double>& packed,
                const Sweep& sweep, int64_t begin, int64_t end, double* scratch, double* terms) {
  k.sweep_double(task, packed, sweep, begin, end, scratch, terms);
}

void again_rows(const Kernels& k, const Kept<float>& kept, const Sweep& sweep, double* log_sum,
                int64_t begin, int64_t end) {
  k.again_float(kept, sweep, log_sum, begin, end);
}
void again_rows(const Kernels& k, const Kept<double>& kept, const Sweep& sweep, double* log_sum,
                int64_t begin, int64_t end) {
  k.again_double(kept, sweep, log_sum, begin, end);
}

template <class T>
struct Copy {
  std::vector<T> panels, bias, values;
  Packed<T> packed;

  Copy(const Kernels& table, const Task<T>& task) {
    const int64_t width = sizeof(T) == 4 ? table.width_float : table.width_double;
    const int64_t tiles = tiles_of(task.columns), padded = tiles * TILE;
    const int64_t features = (task.features + width - 1) / width * width;
    panels.resize(padded * task.dims);
    bias.assign(padded, static_cast<T>(-HUGE_VAL));  // of padding: less than every score
    values.resize(padded * features);
    for (int64_t j = 0; j < task.columns; ++j) {
      T* panel = panels.data() + j / width * width * task.dims + j % width;
      for (int64_t k = 0; k < task.dims; ++k) panel[k * width] = task.y[j * task.dims + k];
      bias[j] = static_cast<T>(task.bias[j] / LN2);
      std::copy_n(task.values + j * task.features, task.features, values.data() + j * features);
    }
    packed = {panels.data(), bias.data(), values.data(), tiles, features};
  }
};

int64_t blocks_of(int64_t rows) { return (rows + ROWS - 1) / ROWS; }

int64_t parts_of(int64_t rows) { return std::min(blocks_of(rows), PARTS); }

int threads_for(int64_t rows, int threads) {
  return static_cast<int>(
      std::min<int64_t>(std::max(threads, 1), std::max<int64_t>(parts_of(rows), 1)));
}

// work(begin, end) for blocks of rows, about as many pairs at once as take some milliseconds.
template <class Work>
void in_blocks(int64_t begin, int64_t end, int64_t columns, int thread, const Stop& stop,
               const Work& work) {
  constexpr int64_t PAIRS = int64_t{1} << 20;
  const int64_t step = std::max<int64_t>(1, PAIRS / std::max<int64_t>(columns, 1) / ROWS) * ROWS;
  for (; begin < end && !stop(thread); begin += step) work(begin, std::min(begin + step, end));
}

// work(thread, sweep, begin, end) for every part of the rows; their sums in order.
template <class Work>
void in_parts(int64_t rows, int64_t columns, const Sweep& sweep, int threads, const Stop& stop,
              const Work& work) {
  const int64_t blocks = blocks_of(rows), parts = parts_of(rows);
  const int64_t padded = tiles_of(columns) * TILE;
  std::vector<double> sums(2 * parts * padded);
  parallel_for(parts, 1, threads_for(rows, threads), [&](int64_t first, int64_t last, int thread) {
    for (int64_t part = first; part < last; ++part) {
      Sweep own = sweep;
      own.fitted = sums.data() + 2 * part * padded;
      own.relaxed = own.fitted + padded;
      const int64_t begin = blocks * part / parts * ROWS, end = blocks * (part + 1) / parts * ROWS;
      in_blocks(begin, std::min(end, rows), columns, thread, stop,
                [&](int64_t first, int64_t last) { work(thread, own, first, last); });
    }
  });
  for (int64_t j = 0; j < columns; ++j) {
    sweep.fitted[j] = sweep.relaxed[j] = 0;
    for (int64_t part = 0; part < parts; ++part) {
      sweep.fitted[j] += sums[2 * part * padded + j];
      sweep.relaxed[j] += sums[(2 * part + 1) * padded + j];
    }
    if (sweep.omega == 1) sweep.relaxed[j] = sweep.fitted[j];
  }
}

}  // namespace

template <class T>
void run(const Task<T>& task, int threads, const Stop& stop) {
  const Kernels& table = kernels<Kernels>();
  const Copy<T> copy(table, task);
  const int64_t blocks = blocks_of(task.rows), size = scratch_size(copy.packed.padded_features);
  threads = static_cast<int>(std::min<int64_t>(std::max(threads, 1), std::max<int64_t>(blocks, 1)));
  std::vector<T> scratch(threads * size);
  parallel_for(task.rows, ROWS, threads, [&](int64_t begin, int64_t end, int thread) {
    in_blocks(begin, end, task.columns, thread, stop, [&](int64_t first, int64_t last) {
      run_rows(table, task, copy.packed, first, last, scratch.data() + thread * size);
    });
  });
}

template <class T>
void run_sweep(const Task<T>& task, const Sweep& sweep, T* terms, int threads, const Stop& stop) {
  const Kernels& table = kernels<Kernels>();
  const Copy<T> copy(table, task);
  const int64_t size = sweep_scratch_size(copy.packed.tiles);
  std::vector<T> scratch(threads_for(task.rows, threads) * size);
  in_parts(task.rows, task.columns, sweep, threads, stop,
           [&](int thread, const Sweep& own, int64_t begin, int64_t end) {
             sweep_rows(table, task, copy.packed, own, begin, end, scratch.data() + thread * size,
                        terms);
           });
}

template <class T>
void run_again(const Kept<T>& kept, const Sweep& sweep, double* log_sum, int threads,
               const Stop& stop) {
  const Kernels& table = kernels<Kernels>();
  std::vector<T> factors(tiles_of(kept.columns) * TILE);
  std::copy_n(kept.factors, kept.columns, factors.data());
  Kept<T> padded = kept;
  padded.factors = factors.data();
  in_parts(kept.rows, kept.columns, sweep, threads, stop,
           [&](int, const Sweep& own, int64_t begin, int64_t end) {
             again_rows(table, padded, own, log_sum, begin, end);
           });
  for (int64_t j = 0; j < kept.columns; ++j) {
    sweep.fitted[j] *= factors[j];
    sweep.relaxed[j] *= factors[j];
  }
}

template void run<float>(const Task<float>&, int, const Stop&);
template void run<double>(const Task<double>&, int, const Stop&);
template void run_sweep<float>(const Task<float>&, const Sweep&, float*, int, const Stop&);
template void run_sweep<double>(const Task<double>&, const Sweep&, double*, int, const Stop&);
template void run_again<float>(const Kept<float>&, const Sweep&, double*, int, const Stop&);
template void run_again<double>(const Kept<double>&, const Sweep&, double*, int, const Stop&);

}  // namespace fastgen::pairwise
