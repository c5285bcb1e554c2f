// Reductions over all pairs of two clouds, without the matrix, as plain data.
//
// The score of row i and column j is s_ij = scale <x_i, y_j> + bias_j. Columns are read in tiles
// of a fixed width and a fixed order, so that results depend on no number of threads. Semantics:
// fastgen/kernels/pairwise/reference.py.
#pragma once
#include <cstdint>
#include <functional>

namespace fastgen::pairwise {

// Columns of a tile. Part of the contract: a sample spends two uniforms on each tile of a row.
constexpr int64_t TILE = 256;
constexpr double LN2 = 0.693147180559945309417232121458;

enum class Want { log_sum, mean, best, sample };

template <class T>
struct Task {
  Want want;
  int64_t rows, columns, dims;
  const T* x;     // [rows, dims]
  const T* y;     // [columns, dims]
  const T* bias;  // [columns]
  double scale;
  const T* values;  // mean: [columns, features]
  int64_t features;
  // sample: one key for all rows or one for each, and the counter's words.
  const int64_t* seeds;
  int64_t seed_stride;
  const int64_t* sample_ids;
  uint32_t draw, stream;
  double* log_sum;  // [rows]: log sum_j exp(s_ij); for `best` max_j s_ij
  T* mean;          // [rows, features]: sum_j softmax(s_i)_j values_j
  int64_t* column;  // [rows]: the best, or the sampled column
};

// A sweep of Sinkhorn's iteration. With p_i = softmax(s_i) and rows of mass weights_i,
//   fitted_j = sum_i weights_i p_ij,
//   relaxed_j = sum_i weights_i exp((1 - omega) (before_i + log sum_j exp(s_ij))) p_ij,
// the latter where omega is not 1.
struct Sweep {
  const double *weights, *before;  // [rows]
  double omega;
  double *fitted, *relaxed;  // [columns]
};

// Terms that a sweep kept, p_ij = softmax(s_i)_j, from which those of other biases follow: with
// b_j = bias_j + log factors_j, log sum_j exp(s_ij) = known_i + log sum_j p_ij factors_j.
template <class T>
struct Kept {
  const T* terms;       // kept_size(rows, columns)
  const T* factors;     // [tiles * TILE], 0 in padding
  const double* known;  // [rows]
  int64_t rows, columns;
};

// The clouds in the layout of the kernels: panels of columns, dimension by dimension.
template <class T>
struct Packed {
  const T* panels;  // [panels][dims][width]
  const T* bias;    // [tiles * TILE], in units of log 2
  const T* values;  // [tiles * TILE][padded features]
  int64_t tiles, padded_features;
};

struct Kernels {
  static const Kernels baseline, avx2, avx512;
  int64_t width_float, width_double;  // columns of a panel
  // Rows [begin, end); `begin` is a multiple of ROWS, `scratch` has scratch_size(features) places.
  void (*run_float)(const Task<float>&, const Packed<float>&, int64_t begin, int64_t end,
                    float* scratch);
  void (*run_double)(const Task<double>&, const Packed<double>&, int64_t begin, int64_t end,
                     double* scratch);
  // The same for a sweep, whose sums are added to fitted and relaxed [tiles * TILE]; `scratch` has
  // sweep_scratch_size(tiles) places. `terms` are kept if it is not null.
  void (*sweep_float)(const Task<float>&, const Packed<float>&, const Sweep&, int64_t begin,
                      int64_t end, float* scratch, float* terms);
  void (*sweep_double)(const Task<double>&, const Packed<double>&, const Sweep&, int64_t begin,
                       int64_t end, double* scratch, double* terms);
  // The same from kept terms; columns' sums are without their factors.
  void (*again_float)(const Kept<float>&, const Sweep&, double* log_sum, int64_t begin,
                      int64_t end);
  void (*again_double)(const Kept<double>&, const Sweep&, double* log_sum, int64_t begin,
                       int64_t end);
};

// Rows that share a pass over the columns. A multiple of every micro-kernel's rows.
constexpr int64_t ROWS = 96;

constexpr int64_t scratch_size(int64_t padded_features) { return ROWS * (TILE + padded_features); }

constexpr int64_t tiles_of(int64_t columns) { return (columns + TILE - 1) / TILE; }

constexpr int64_t sweep_scratch_size(int64_t tiles) { return ROWS * (TILE + 1) * tiles; }

// Terms in blocks of ROWS rows, and each of these in tiles [ROWS][TILE].
constexpr int64_t kept_size(int64_t rows, int64_t columns) {
  return (rows + ROWS - 1) / ROWS * ROWS * tiles_of(columns) * TILE;
}

// Parts of the rows whose sums over a sweep are added up in order, by however many threads.
constexpr int64_t PARTS = 16;

// Asked between blocks of rows, by threads from 0, the caller's, on: whether to end early. Nothing
// is then what it should be.
using Stop = std::function<bool(int thread)>;

template <class T>
void run(const Task<T>& task, int threads, const Stop& stop);

// Writes task.log_sum and the sums of the sweep; keeps its terms if `terms` is not null.
template <class T>
void run_sweep(const Task<T>& task, const Sweep& sweep, T* terms, int threads, const Stop& stop);

// The same from kept terms; `factors` [columns].
template <class T>
void run_again(const Kept<T>& kept, const Sweep& sweep, double* log_sum, int threads,
               const Stop& stop);

}  // namespace fastgen::pairwise
