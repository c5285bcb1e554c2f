// Tiles of scores and what is made of them. Everything has internal linkage (see lanes.h).
//
// ROWS rows of x share a pass over the columns, a tile of TILE columns at a time:
//
//                    tile 0              tile 1              tile 2
//              |##|  |  |  |  |    |  |  |  |  |  |    |  |  |  |  |  |     a panel: WIDTH columns,
//     ROWS     |##|  |  |  |  |    |  |  |  |  |  |    |  |  |  |  |  |     dimension by dimension
//     rows     |  |  |  |  |  |    |  |  |  |  |  |    |  |  |  |  |  |
//              |  |  |  |  |  |    |  |  |  |  |  |    |  |  |  |  |  |     ##: a micro-kernel, MR
//                                                                           rows by a panel, whose
//                                                                           sums are in registers
//
// Of a tile first all inner products are formed, then row by row scores s = scale <x, y> + bias in
// units of log 2, their maximum, and the powers 2^(s - highest so far). What was summed before is
// scaled down where the maximum has risen, so that no power overflows and one pass is enough.
#pragma once
#include "pairwise/vectors.h"

namespace fastgen::pairwise {
namespace {

// Rows of a micro-kernel: as many as leave registers for two vectors of columns.
#if defined(__AVX512F__)
constexpr int MR = 12;
#else
constexpr int MR = 6;
#endif
static_assert(ROWS % MR == 0);
// Dimensions of a pass: a panel of that many stays in the first cache.
constexpr int64_t DEPTH = 256;

// c[r][:] (+)= sum_k a[r][k] b[k][:], two vectors wide.
template <class T, bool ADD>
FASTGEN_INLINE void multiply(const T* const* a, const T* b, int64_t b_stride, int64_t depth, T* c,
                             int64_t c_stride) {
  using V = typename Of<T>::Vector;
  V sum[MR][2];
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < 2; ++v) sum[r][v] = ADD ? load<V>(c + r * c_stride + v * LANES<T>) : V{};
  for (int64_t k = 0; k < depth; ++k, b += b_stride) {
    const V b0 = load<V>(b), b1 = load<V>(b + LANES<T>);
    for (int r = 0; r < MR; ++r) {
      const V x = V{} + a[r][k];
      sum[r][0] = fused(x, b0, sum[r][0]);
      sum[r][1] = fused(x, b1, sum[r][1]);
    }
  }
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < 2; ++v) store(c + r * c_stride + v * LANES<T>, sum[r][v]);
}

// scores [ROWS][TILE] of some rows and one tile.
template <class T>
__attribute__((noinline)) void inner_products(const T* const* x, int64_t rows, const T* panels,
                                              int64_t dims, T* scores) {
  for (int64_t k = 0; k < dims; k += DEPTH) {
    const int64_t depth = std::min(DEPTH, dims - k);
    for (int64_t j = 0; j < TILE; j += WIDTH<T>)
      for (int64_t i = 0; i < rows; i += MR) {
        const T* a[MR];
        for (int r = 0; r < MR; ++r) a[r] = x[i + r] + k;
        const T* b = panels + j * dims + k * WIDTH<T>;
        T* c = scores + i * TILE + j;
        if (k == 0)
          multiply<T, false>(a, b, WIDTH<T>, depth, c, TILE);
        else
          multiply<T, true>(a, b, WIDTH<T>, depth, c, TILE);
      }
  }
}

// sums [rows][features] += weights [rows][TILE] values [TILE][features]
template <class T>
__attribute__((noinline)) void weighted_sums(const T* weights, int64_t rows, const T* values,
                                             int64_t features, T* sums) {
  for (int64_t e = 0; e < features; e += WIDTH<T>)
    for (int64_t i = 0; i < rows; i += MR) {
      const T* a[MR];
      for (int r = 0; r < MR; ++r) a[r] = weights + (i + r) * TILE;
      multiply<T, true>(a, values + e, features, TILE, sums + i * features + e, features);
    }
}

// Less than every score, so that padding is never chosen and the first score replaces it.
constexpr double LOWEST_SCORE = -HUGE_VAL;

// scores = scale * scores + bias, in place; returns the largest, NaN aside.
template <class T>
FASTGEN_INLINE T finish_scores(T* scores, const T* bias, T scale) {
  using V = typename Of<T>::Vector;
  V high[2] = {V{} + static_cast<T>(LOWEST_SCORE), V{} + static_cast<T>(LOWEST_SCORE)};
  for (int64_t j = 0; j < TILE; j += WIDTH<T>)
    for (int v = 0; v < 2; ++v) {
      const int64_t at = j + v * LANES<T>;
      const V s = fused(load<V>(scores + at), V{} + scale, load<V>(bias + at));
      store(scores + at, s);
      high[v] = larger(high[v], s);
    }
  high[0] = larger(high[0], high[1]);
  T highest = high[0][0];
  for (int64_t l = 1; l < LANES<T>; ++l) highest = std::max(highest, high[0][l]);
  return highest;
}

// sum_j 2^(s_j - high); the terms replace the scores where they are wanted.
template <class T, bool KEEP>
FASTGEN_INLINE double sum_of_powers(T* scores, T high) {
  using V = typename Of<T>::Vector;
  V sum[2] = {};
  for (int64_t j = 0; j < TILE; j += WIDTH<T>)
    for (int v = 0; v < 2; ++v) {
      const int64_t at = j + v * LANES<T>;
      const V p = power_of_two<T>(load<V>(scores + at) - high);
      if (KEEP) store(scores + at, p);
      sum[v] += p;
    }
  sum[0] += sum[1];
  double total = 0;
  for (int64_t l = 0; l < LANES<T>; ++l) total += sum[0][l];
  return total;
}

// The first j with terms_0 + .. + terms_j > u (terms_0 + ..), which is never one without weight.
template <class T>
FASTGEN_INLINE int64_t pick(const T* terms, double u) {
  double total = 0;
  for (int64_t j = 0; j < TILE; ++j) total += terms[j];
  const double target = u * total;
  double sum = 0;
  int64_t last = 0;
  for (int64_t j = 0; j < TILE; ++j) {
    sum += terms[j];
    if (terms[j] > 0) last = j;
    if (sum > target) return j;
  }
  return last;
}

// The running state of a row: sum 2^-high of everything so far, and the column in view.
struct State {
  double high, sum;
  int64_t column;
};

template <class T>
void run_rows(const Task<T>& task, const Packed<T>& packed, int64_t begin, int64_t end,
              T* scratch) {
  const T scale = static_cast<T>(task.scale / LN2);
  const int64_t features = packed.padded_features;
  T *const scores = scratch, *const sums = scratch + ROWS * TILE;
  State state[ROWS];
  for (int64_t first = begin; first < end; first += ROWS) {
    const int64_t rows = std::min(ROWS, end - first), padded = (rows + MR - 1) / MR * MR;
    const T* x[ROWS];
    for (int64_t i = 0; i < padded; ++i)
      x[i] = task.x + (first + std::min(i, rows - 1)) * task.dims;
    for (State& s : state) s = {LOWEST_SCORE, 0, 0};
    for (int64_t e = 0; e < ROWS * features; ++e) sums[e] = 0;
    for (int64_t t = 0; t < packed.tiles; ++t) {
      inner_products<T>(x, padded, packed.panels + t * TILE * task.dims, task.dims, scores);
      for (int64_t i = 0; i < padded; ++i) {
        T* row = &scores[i * TILE];
        State& s = state[i];
        const T high = finish_scores<T>(row, packed.bias + t * TILE, scale);
        if (task.want == Want::best) {
          if (high > s.high) {
            s.high = high;
            int64_t j = 0;
            while (row[j] != high) ++j;  // it is there: `high` is greater than LOWEST_SCORE
            s.column = t * TILE + j;
          }
          continue;
        }
        const double top = std::max<double>(s.high, high);
        const double keep = std::exp2(s.high - top);
        if (task.want == Want::mean) {
          s.sum = s.sum * keep + sum_of_powers<T, true>(row, static_cast<T>(top));
          s.high = top;
          if (keep != 1)
            for (int64_t e = 0; e < features; ++e) sums[i * features + e] *= static_cast<T>(keep);
        } else if (task.want == Want::log_sum) {
          s.sum = s.sum * keep + sum_of_powers<T, false>(row, static_cast<T>(top));
          s.high = top;
        } else if (i < rows) {
          const double part = sum_of_powers<T, true>(row, static_cast<T>(top));
          s.sum = s.sum * keep + part;
          s.high = top;
          // One block of Philox for two tiles, two words for each.
          const uint64_t seed = task.seeds[(first + i) * task.seed_stride];
          const uint64_t sample = task.sample_ids[first + i], block = t / 2;
          const auto words = philox<uint64_t>(
              {block, sample, task.draw, last_word(task.stream, block, sample)}, seed, seed >> 32);
          const uint32_t own[2] = {static_cast<uint32_t>(t % 2 ? words.w2 : words.w0),
                                   static_cast<uint32_t>(t % 2 ? words.w3 : words.w1)};
          // Of all tiles so far this one is chosen with its share of the sum.
          if ((own[0] + 0.5) * 0x1p-32 * s.sum < part)
            s.column = t * TILE + pick<T>(row, (own[1] + 0.5) * 0x1p-32);
        }
      }
      if (task.want == Want::mean)
        weighted_sums<T>(scores, padded, packed.values + t * TILE * features, features, sums);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const State& s = state[i];
      const int64_t to = first + i;
      if (task.want == Want::best)
        task.log_sum[to] = s.high * LN2;
      else
        task.log_sum[to] = (s.high + std::log2(s.sum)) * LN2;
      if (task.column) task.column[to] = s.column;
      for (int64_t e = 0; e < task.features; ++e)
        task.mean[to * task.features + e] = static_cast<T>(sums[i * features + e] / s.sum);
    }
  }
}

// fitted_j += sum_i terms_ij fit_i, relaxed_j += sum_i terms_ij relax_i over the rows of one tile.
template <class T, bool BOTH>
__attribute__((noinline)) void add_columns(const T* terms, int64_t rows, const T* fit,
                                           const T* relax, double* fitted, double* relaxed) {
  using V = typename Of<T>::Vector;
  for (int64_t j = 0; j < TILE; j += WIDTH<T>) {
    V sums[4] = {};
    for (int64_t i = 0; i < rows; ++i)
      for (int v = 0; v < 2; ++v) {
        const V x = load<V>(terms + i * TILE + j + v * LANES<T>);
        sums[v] = fused(x, V{} + fit[i], sums[v]);
        if (BOTH) sums[2 + v] = fused(x, V{} + relax[i], sums[2 + v]);
      }
    for (int v = 0; v < 2; ++v)
      for (int64_t l = 0; l < LANES<T>; ++l) {
        fitted[j + v * LANES<T> + l] += sums[v][l];
        if (BOTH) relaxed[j + v * LANES<T> + l] += sums[2 + v][l];
      }
  }
}

// Those sums of tile t of a sweep.
template <class T>
void add_tile(const Sweep& sweep, int64_t t, const T* terms, int64_t rows, const T* fit,
              const T* relax) {
  double *fitted = sweep.fitted + t * TILE, *relaxed = sweep.relaxed + t * TILE;
  if (sweep.omega == 1)
    add_columns<T, false>(terms, rows, fit, relax, fitted, relaxed);
  else
    add_columns<T, true>(terms, rows, fit, relax, fitted, relaxed);
}

template <class T>
FASTGEN_INLINE void multiply_row(T* row, T factor) {
  using V = typename Of<T>::Vector;
  for (int64_t j = 0; j < TILE; j += LANES<T>) store(row + j, load<V>(row + j) * factor);
}

template <class T>
void sweep_rows(const Task<T>& task, const Packed<T>& packed, const Sweep& sweep, int64_t begin,
                int64_t end, T* scratch, T* kept) {
  const T scale = static_cast<T>(task.scale / LN2);
  T* const tops = scratch + packed.tiles * ROWS * TILE;
  for (int64_t first = begin; first < end; first += ROWS) {
    // Of each tile: the terms of the rows, and the power of two that each row's are relative to.
    T* const terms = kept ? kept + first * packed.tiles * TILE : scratch;
    const int64_t rows = std::min(ROWS, end - first), padded = (rows + MR - 1) / MR * MR;
    const T* x[ROWS];
    for (int64_t i = 0; i < padded; ++i)
      x[i] = task.x + (first + std::min(i, rows - 1)) * task.dims;
    double high[ROWS], sum[ROWS] = {}, log2_sum[ROWS], relaxing[ROWS];
    std::fill(high, high + ROWS, LOWEST_SCORE);
    for (int64_t t = 0; t < packed.tiles; ++t) {
      T* tile = terms + t * ROWS * TILE;
      inner_products<T>(x, padded, packed.panels + t * TILE * task.dims, task.dims, tile);
      for (int64_t i = 0; i < rows; ++i) {
        T* row = tile + i * TILE;
        const double top =
            std::max<double>(high[i], finish_scores<T>(row, packed.bias + t * TILE, scale));
        sum[i] *= std::exp2(high[i] - top);
        sum[i] += sum_of_powers<T, true>(row, static_cast<T>(top));
        high[i] = top;
        tops[t * ROWS + i] = static_cast<T>(top);
      }
    }
    for (int64_t i = 0; i < rows; ++i) {
      log2_sum[i] = high[i] + std::log2(sum[i]);
      const double found = log2_sum[i] * LN2;
      task.log_sum[first + i] = found;
      relaxing[i] = std::exp((1 - sweep.omega) * (sweep.before[first + i] + found));
    }
    for (int64_t t = 0; t < packed.tiles; ++t) {
      T fit[ROWS], relax[ROWS];
      double share[ROWS];
      for (int64_t i = 0; i < rows; ++i) {
        share[i] = std::exp2(tops[t * ROWS + i] - log2_sum[i]);
        const double weight = sweep.weights[first + i] * share[i];
        fit[i] = static_cast<T>(weight);
        relax[i] = static_cast<T>(weight * relaxing[i]);
      }
      T* tile = terms + t * ROWS * TILE;
      add_tile(sweep, t, tile, rows, fit, relax);
      for (int64_t i = 0; kept && i < rows; ++i)
        multiply_row(tile + i * TILE, static_cast<T>(share[i]));
    }
  }
}

// sum_j terms_j factors_j over a tile.
template <class T>
FASTGEN_INLINE double weighted(const T* terms, const T* factors) {
  using V = typename Of<T>::Vector;
  V sums[4] = {};
  for (int64_t j = 0; j < TILE; j += 4 * LANES<T>)
    for (int v = 0; v < 4; ++v) {
      const int64_t at = j + v * LANES<T>;
      sums[v] = fused(load<V>(terms + at), load<V>(factors + at), sums[v]);
    }
  const V sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double total = 0;
  for (int64_t l = 0; l < LANES<T>; ++l) total += sum[l];
  return total;
}

// Rows whose terms stay in the second cache between their two uses: some 256 KiB.
template <class T>
int64_t group_size(int64_t tiles) {
  return std::clamp<int64_t>((int64_t{1} << 18) / (tiles * TILE * sizeof(T)), 8, ROWS);
}

template <class T>
void again_rows(const Kept<T>& kept, const Sweep& sweep, double* log_sum, int64_t begin,
                int64_t end) {
  const int64_t tiles = tiles_of(kept.columns), group = group_size<T>(tiles);
  for (int64_t block = begin; block < end; block += ROWS)
    for (int64_t first = block; first < std::min(block + ROWS, end); first += group) {
      const int64_t rows = std::min({group, block + ROWS - first, end - first});
      const T* terms = kept.terms + block * tiles * TILE + (first - block) * TILE;
      double sum[ROWS] = {};
      for (int64_t t = 0; t < tiles; ++t)
        for (int64_t i = 0; i < rows; ++i)
          sum[i] += weighted(terms + (t * ROWS + i) * TILE, kept.factors + t * TILE);
      T fit[ROWS], relax[ROWS];
      for (int64_t i = 0; i < rows; ++i) {
        const double found = kept.known[first + i] + std::log(sum[i]);
        const double weight = sweep.weights[first + i] / sum[i];
        log_sum[first + i] = found;
        fit[i] = static_cast<T>(weight);
        relax[i] = static_cast<T>(weight *
                                  std::exp((1 - sweep.omega) * (sweep.before[first + i] + found)));
      }
      for (int64_t t = 0; t < tiles; ++t)
        add_tile(sweep, t, terms + t * ROWS * TILE, rows, fit, relax);
    }
}

}  // namespace
}  // namespace fastgen::pairwise
