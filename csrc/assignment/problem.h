// Linear assignment: what the solver works on, as plain data, and its kernels.
//
// Costs are solved as integers, 0 to RANGE levels a row: no price step is ever below the spacing
// of its numbers, ties are ties, and reductions do not depend on their order. Prices only fall.
#pragma once
#include <cstdint>
#include <vector>

#include "common/isa.h"

namespace fastgen::assignment {

// Sums of a few multiples of RANGE fit: see the bounds in solver.h.
constexpr int32_t RANGE = 1 << 27;
constexpr int32_t PADDING_COST = 4 * RANGE, PADDING_PRICE = -2 * RANGE;
// Columns are padded to a multiple of this: one candidate per class j mod CLASSES is what lists
// of near columns are made from, on every ISA.
constexpr int64_t CLASSES = 64;
constexpr int64_t MOST_LISTED = 128;  // of the columns near a row

constexpr int64_t padded(int64_t columns) { return (columns + CLASSES - 1) / CLASSES * CLASSES; }

struct Best {
  int32_t column, first, second;  // the lowest column with the lowest reduced cost, and the next
};

struct Nearest {
  int32_t dist, column;
};

// Points in low dimension are sorted into boxes of this many columns: far boxes are not looked at.
constexpr int64_t BOX = 32;

// Points dimension by dimension, in units in which costs are levels (float32) or their own.
struct Points {
  int64_t dims, stride;
  const float* columns;  // [dims, stride]
  const double* columns_double;
};

// Bounding boxes of the columns, BOX at a time; [dims, stride], padded to a multiple of 16.
struct Boxes {
  int64_t stride;
  const float *low, *high;
};

struct Kernels {
  static const Kernels baseline, avx2, avx512;
  // out[j] = levels of |row - column j|^2 (or its root), padding left out.
  void (*points_row)(const Points&, const float* row, bool root, int64_t columns, int32_t* out);
  // out[j] = |row - column j|^2 (or its root) in float64.
  void (*points_row_double)(const Points&, const double* row, bool root, int64_t columns,
                            double* out);
  // bounds[b] <= every reduced cost in box b, given its highest price; INT_MAX in padding.
  void (*box_bounds)(const Boxes&, int64_t dims, const float* row, bool root,
                     const int32_t* highest_price, int32_t* bounds);
  // Costs and reduced costs of the `count` columns from `begin` on, padded to BOX. `lowest` [BOX]
  // keeps the lowest reduced cost of each class; returns a bound below which there are columns of
  // `groups` groups.
  int32_t (*visit_box)(const Points&, const float* row, bool root, int64_t begin, int64_t count,
                       const int32_t* prices, int groups, int32_t* costs, int32_t* reduced,
                       int32_t* lowest);
  // The lowest of the bounds of boxes and where it is.
  Nearest (*lowest_bound)(const int32_t* bounds, int64_t count);
  // Lowest and highest; false if some number is not finite.
  bool (*range_float)(const float* row, int64_t columns, float* low, float* high);
  bool (*range_double)(const double* row, int64_t columns, double* low, double* high);
  // Levels of row[j] - low, in float32.
  void (*levels_direct)(const float* row, int64_t columns, float low, float scale, int32_t* out);
  // Levels of row[j] - prices[j] - low, clipped at RANGE, in float64.
  void (*levels_float)(const float* row, const double* prices, int64_t columns, double low,
                       double scale, int32_t* out);
  void (*levels_double)(const double* row, const double* prices, int64_t columns, double low,
                        double scale, int32_t* out);
  // lowest[j] = min(lowest[j], row[j] - offset)
  void (*lower)(const int32_t* row, int32_t offset, int64_t padded, int32_t* lowest);
  Best (*best_two)(const int32_t* costs, const int32_t* prices, int64_t padded);
  // The same over a list of columns; count is a multiple of 16.
  Best (*best_listed)(const int32_t* columns, const int32_t* costs, const int32_t* prices,
                      int64_t count);
  // Of a list's columns the positions of those where base + max(0, cost - price - offset) is below
  // `limit` and dist; `nearer` has room for count + 16 of them.
  int64_t (*nearer_listed)(const int32_t* columns, const int32_t* costs, const int32_t* prices,
                           int64_t count, int32_t offset, int32_t base, const int32_t* dist,
                           int32_t limit, int32_t* nearer);
  // Reduced costs to `reduced`; a bound below which there are columns of 8, 16 or 32 `groups`.
  int32_t (*reduce)(const int32_t* costs, const int32_t* prices, int64_t padded, int groups,
                    int32_t* reduced);
  // Columns with reduced[j] <= bound, in order; `columns` has room for padded + 16 of them.
  int64_t (*collect)(const int32_t* reduced, int64_t padded, int32_t bound, int32_t* columns);
  // One step of Dijkstra: dist[j] = min(dist[j], base + max(0, costs[j] - prices[j] - offset));
  // parent[j] = row where it fell. Columns done have dist INT32_MIN. Returns the nearest not done.
  Nearest (*relax)(const int32_t* costs, const int32_t* prices, int64_t padded, int32_t offset,
                   int32_t base, int32_t row, int32_t* dist, int32_t* parent);
  // min_j (costs[j] - prices[j])
  double (*lowest_float)(const float* row, const double* prices, int64_t columns);
  double (*lowest_double)(const double* row, const double* prices, int64_t columns);
  // sum_i |a_i - b_i|^2 in float64
  double (*squared_distance_float)(const float* a, const float* b, int64_t count);
  double (*squared_distance_double)(const double* a, const double* b, int64_t count);
  // sums += x; returns sum_k x_k^2.
  double (*add_moments_float)(const float* x, int64_t count, float* sums);
  double (*add_moments_double)(const double* x, int64_t count, double* sums);
};

}  // namespace fastgen::assignment
