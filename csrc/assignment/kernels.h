// The loops over the columns of one row. Everything has internal linkage (see lanes.h).
#pragma once
#include <algorithm>
#include <climits>
#include <cmath>
#include <type_traits>

#include "assignment/problem.h"
#include "assignment/vectors.h"

namespace fastgen::assignment {
namespace {

// D is the number of dimensions where that is small, for the coordinates to stay in registers.
template <int D>
FASTGEN_INLINE void points_row_of(const Points& points, const float* row, bool root,
                                  int64_t columns, int32_t* out) {
  const int64_t dims = D ? D : points.dims;
  for (int64_t j = 0; j < columns; ++j) {
    float sum = 0;
    for (int64_t k = 0; k < dims; ++k) {
      const float difference = row[k] - points.columns[k * points.stride + j];
      sum += difference * difference;
    }
    if (root) sum = __builtin_sqrtf(sum);
    out[j] = static_cast<int32_t>(sum);
  }
}

void points_row(const Points& points, const float* row, bool root, int64_t columns, int32_t* out) {
#define FASTGEN_CASE(D) \
  if (points.dims == D && !root) return points_row_of<D>(points, row, false, columns, out)
  FASTGEN_CASE(1);
  FASTGEN_CASE(2);
  FASTGEN_CASE(3);
  FASTGEN_CASE(4);
#undef FASTGEN_CASE
  // Dimension by dimension over a strip that stays in the first cache.
  constexpr int64_t STRIP = 256;
  float sums[STRIP];
  for (int64_t begin = 0; begin < columns; begin += STRIP) {
    const int64_t count = std::min(STRIP, columns - begin);
    for (int64_t j = 0; j < count; ++j) sums[j] = 0;
    for (int64_t k = 0; k < points.dims; ++k) {
      const float* column = points.columns + k * points.stride + begin;
      const float x = row[k];
      for (int64_t j = 0; j < count; ++j) {
        const float difference = x - column[j];
        sums[j] += difference * difference;
      }
    }
    if (root)
      for (int64_t j = 0; j < count; ++j) sums[j] = __builtin_sqrtf(sums[j]);
    for (int64_t j = 0; j < count; ++j) out[begin + j] = static_cast<int32_t>(sums[j]);
  }
}

void points_row_double(const Points& points, const double* row, bool root, int64_t columns,
                       double* out) {
  // So many at a time are kept in registers.
  constexpr int64_t STRIP = 64;
  for (int64_t begin = 0; begin < columns; begin += STRIP) {
    const int64_t count = begin + STRIP < columns ? STRIP : columns - begin;
    const double* column = points.columns_double + begin;
    double sums[STRIP] = {};
    for (int64_t k = 0; k < points.dims; ++k, column += points.stride) {
      const double x = row[k];
      if (count == STRIP)
        for (int64_t j = 0; j < STRIP; ++j) sums[j] += (x - column[j]) * (x - column[j]);
      else
        for (int64_t j = 0; j < count; ++j) sums[j] += (x - column[j]) * (x - column[j]);
    }
    for (int64_t j = 0; j < count; ++j) out[begin + j] = sums[j];
  }
  if (root)
    for (int64_t j = 0; j < columns; ++j) out[j] = __builtin_sqrt(out[j]);
}

void box_bounds(const Boxes& boxes, int64_t dims, const float* row, bool root,
                const int32_t* highest_price, int32_t* bounds) {
  // Below the rounding of both this bound and the costs.
  constexpr float SHRUNK = 0.9999f;
  for (int64_t b = 0; b < boxes.stride; ++b) {
    float sum = 0;
    for (int64_t k = 0; k < dims; ++k) {
      const float low = boxes.low[k * boxes.stride + b] - row[k];
      const float high = row[k] - boxes.high[k * boxes.stride + b];
      float outside = low > high ? low : high;
      outside = outside > 0.0f ? outside : 0.0f;
      sum += outside * outside;
    }
    if (root) sum = __builtin_sqrtf(sum);
    bounds[b] = static_cast<int32_t>(sum * SHRUNK) - highest_price[b];
  }
}

// The highest of the lowest of 8, 16 or 32 groups of classes.
template <int PARTS>
FASTGEN_INLINE int32_t bound_of(I32 (&lowest)[PARTS], int groups) {
  for (int width = PARTS; width * W > groups && width > 1; width /= 2)
    for (int c = 0; c < width / 2; ++c) lowest[c] = smaller(lowest[c], lowest[c + width / 2]);
  if (W > groups) lowest[0] = smaller(lowest[0], swap<W / 2>(lowest[0]));
  I32 highest = lowest[0];
  for (int c = 1; c * W < groups; ++c) highest = larger(highest, lowest[c]);
  return horizontal_max(highest);
}

int32_t visit_box(const Points& points, const float* row, bool root, int64_t begin, int64_t count,
                  const int32_t* prices, int groups, int32_t* costs, int32_t* reduced,
                  int32_t* lowest) {
  const Points box{points.dims, points.stride, points.columns + begin, nullptr};
  if (count == BOX) {
    points_row(box, row, root, BOX, costs);
  } else {
    points_row(box, row, root, count, costs);
    std::fill(costs + count, costs + BOX, PADDING_COST);
  }
  I32 least[BOX / W];
  for (int64_t c = 0; c < BOX / W; ++c) {
    const I32 x = load(costs + c * W) - load(prices + begin + c * W);
    store(reduced + c * W, x);
    least[c] = smaller(load(lowest + c * W), x);
    store(lowest + c * W, least[c]);
  }
  return bound_of(least, groups);
}

// As many independent chains as hide the latency. A number that is not finite, times zero, is NaN.
template <class T>
FASTGEN_INLINE bool range(const T* row, int64_t columns, T* low, T* high) {
  using V = std::conditional_t<sizeof(T) == 4, F32, F64>;
  constexpr int64_t LANES = sizeof(V) / sizeof(T), CHAINS = 4;
  V lows[CHAINS], highs[CHAINS], zeros[CHAINS] = {};
  for (int64_t c = 0; c < CHAINS; ++c) lows[c] = highs[c] = V{} + row[0];
  int64_t j = 0;
  for (; j + CHAINS * LANES <= columns; j += CHAINS * LANES)
    for (int64_t c = 0; c < CHAINS; ++c) {
      V x;
      std::memcpy(&x, row + j + c * LANES, sizeof x);
      lows[c] = smaller(lows[c], x);
      highs[c] = larger(highs[c], x);
      zeros[c] += x * T{0};
    }
  for (; j < columns; ++j) {
    lows[0][0] = std::min(lows[0][0], row[j]);
    highs[0][0] = std::max(highs[0][0], row[j]);
    zeros[0][0] += row[j] * T{0};
  }
  const V least = smaller(smaller(lows[0], lows[1]), smaller(lows[2], lows[3]));
  const V most = larger(larger(highs[0], highs[1]), larger(highs[2], highs[3]));
  const V zero = (zeros[0] + zeros[1]) + (zeros[2] + zeros[3]);
  T sum = 0;
  *low = least[0];
  *high = most[0];
  for (int64_t l = 0; l < LANES; ++l) {
    *low = std::min(*low, least[l]);
    *high = std::max(*high, most[l]);
    sum += zero[l];
  }
  return sum == 0;
}
bool range_float(const float* row, int64_t columns, float* low, float* high) {
  return range(row, columns, low, high);
}
bool range_double(const double* row, int64_t columns, double* low, double* high) {
  return range(row, columns, low, high);
}

void levels_direct(const float* row, int64_t columns, float low, float scale, int32_t* out) {
  for (int64_t j = 0; j < columns; ++j) out[j] = static_cast<int32_t>((row[j] - low) * scale);
}

template <class T>
FASTGEN_INLINE void levels_of(const T* row, const double* prices, int64_t columns, double low,
                              double scale, int32_t* out) {
  for (int64_t j = 0; j < columns; ++j) {
    double level = ((row[j] - prices[j]) - low) * scale;
    level = level < RANGE ? level : RANGE;
    out[j] = static_cast<int32_t>(level > 0 ? level : 0);
  }
}
void levels_float(const float* row, const double* prices, int64_t columns, double low, double scale,
                  int32_t* out) {
  levels_of(row, prices, columns, low, scale, out);
}
void levels_double(const double* row, const double* prices, int64_t columns, double low,
                   double scale, int32_t* out) {
  levels_of(row, prices, columns, low, scale, out);
}

void lower(const int32_t* row, int32_t offset, int64_t padded, int32_t* lowest) {
  for (int64_t j = 0; j < padded; j += W)
    store(lowest + j, smaller(load(lowest + j), load(row + j) - offset));
}

Best best_two(const int32_t* costs, const int32_t* prices, int64_t padded) {
  constexpr int CHAINS = 2;
  Candidates part[CHAINS];
  for (Candidates& x : part) x = {fill(INT_MAX), fill(INT_MAX), I32{}};
  I32 at = lanes();
  for (int64_t j = 0; j < padded; j += CHAINS * W) {
    for (int c = 0; c < CHAINS; ++c) {
      const I32 reduced = load(costs + j + c * W) - load(prices + j + c * W);
      part[c].second = smaller(part[c].second, larger(part[c].first, reduced));
      part[c].column = reduced < part[c].first ? at : part[c].column;
      part[c].first = smaller(part[c].first, reduced);
    }
    at += CHAINS * W;
  }
  part[1].column += W;
  return best_of(merge(part[0], part[1]));
}

Best best_listed(const int32_t* columns, const int32_t* costs, const int32_t* prices,
                 int64_t count) {
#if FASTGEN_INTRINSICS && defined(__AVX2__)
  Candidates best{fill(INT_MAX), fill(INT_MAX), I32{}};
  for (int64_t k = 0; k < count; k += W) {
    const I32 at = load(columns + k), reduced = load(costs + k) - gather(prices, at);
    best.second = smaller(best.second, larger(best.first, reduced));
    best.column = reduced < best.first ? at : best.column;
    best.first = smaller(best.first, reduced);
  }
  return best_of(best);
#else
  Best best{INT_MAX, INT_MAX, INT_MAX};
  for (int64_t k = 0; k < count; ++k) {
    const int32_t reduced = costs[k] - prices[columns[k]];
    best.second = std::min(best.second, std::max(best.first, reduced));
    if (reduced < best.first || (reduced == best.first && columns[k] < best.column))
      best.column = columns[k];
    best.first = std::min(best.first, reduced);
  }
  return best;
#endif
}

int64_t nearer_listed(const int32_t* columns, const int32_t* costs, const int32_t* prices,
                      int64_t count, int32_t offset, int32_t base, const int32_t* dist,
                      int32_t limit, int32_t* nearer) {
  int64_t found = 0;
#if FASTGEN_INTRINSICS && defined(__AVX2__)
  const I32 zero{}, farthest = fill(limit);
  for (int64_t k = 0; k < count; k += W) {
    const I32 at = load(columns + k);
    const I32 slack = (load(costs + k) - gather(prices, at)) - offset;
    const I32 through = larger(slack, zero) + base;
    const I32 hit = through < smaller(gather(dist, at), farthest);
    found += pack(nearer + found, lanes() + static_cast<int32_t>(k), hit);
  }
#else
  for (int64_t k = 0; k < count; ++k) {
    const int32_t through = base + std::max(costs[k] - prices[columns[k]] - offset, 0);
    nearer[found] = static_cast<int32_t>(k);
    found += through < std::min(dist[columns[k]], limit);
  }
#endif
  return found;
}

int32_t reduce(const int32_t* costs, const int32_t* prices, int64_t padded, int groups,
               int32_t* reduced) {
  constexpr int PARTS = CLASSES / W;
  I32 lowest[PARTS];
  for (int c = 0; c < PARTS; ++c) lowest[c] = fill(INT_MAX);
  for (int64_t j = 0; j < padded; j += CLASSES)
    for (int c = 0; c < PARTS; ++c) {
      const I32 x = load(costs + j + c * W) - load(prices + j + c * W);
      store(reduced + j + c * W, x);
      lowest[c] = smaller(lowest[c], x);
    }
  return bound_of(lowest, groups);
}

int64_t collect(const int32_t* reduced, int64_t padded, int32_t bound, int32_t* columns) {
  int64_t count = 0;
  I32 at = lanes();
  for (int64_t j = 0; j < padded; j += W) {
    count += pack(columns + count, at, load(reduced + j) <= bound);
    at += W;
  }
  return count;
}

Nearest lowest_bound(const int32_t* bounds, int64_t count) {
  Candidates best{fill(INT_MAX), fill(INT_MAX), I32{}};
  I32 at = lanes();
  for (int64_t b = 0; b < count; b += W) {
    const I32 bound = load(bounds + b);
    best.column = bound < best.first ? at : best.column;
    best.first = smaller(best.first, bound);
    at += W;
  }
  const Best found = best_of(best);
  return {found.first, found.column};
}

Nearest relax(const int32_t* costs, const int32_t* prices, int64_t padded, int32_t offset,
              int32_t base, int32_t row, int32_t* dist, int32_t* parent) {
  constexpr int CHAINS = 2;
  I32 best[CHAINS], column[CHAINS], at = lanes();
  for (int c = 0; c < CHAINS; ++c) {
    best[c] = fill(INT_MAX);
    column[c] = I32{};
  }
  const I32 zero{};
  for (int64_t j = 0; j < padded; j += CHAINS * W)
    for (int c = 0; c < CHAINS; ++c) {
      const int64_t k = j + c * W;
      const I32 slack = (load(costs + k) - load(prices + k)) - offset;
      const I32 through = larger(slack, zero) + base, old = load(dist + k);
      const I32 shorter = through < old;
      // Most vectors change nothing.
      if (bits(shorter)) {
        store(parent + k, shorter ? fill(row) : load(parent + k));
        store(dist + k, smaller(through, old));
      }
      const I32 now = smaller(through, old), open = now < 0 ? fill(INT_MAX) : now;
      column[c] = open < best[c] ? at : column[c];
      best[c] = smaller(best[c], open);
      at += W;
    }
  const Best found = best_of(merge({best[0], best[0], column[0]}, {best[1], best[1], column[1]}));
  return {found.first, found.column};
}

template <class T>
FASTGEN_INLINE double lowest_of(const T* row, const double* prices, int64_t columns) {
  constexpr int64_t LANES = W / 2, CHAINS = 4;
  F64 lowest[CHAINS];
  for (F64& x : lowest) x = F64{} + (row[0] - prices[0]);
  int64_t j = 0;
  for (; j + CHAINS * LANES <= columns; j += CHAINS * LANES)
    for (int64_t c = 0; c < CHAINS; ++c) {
      const int64_t k = j + c * LANES;
      lowest[c] = smaller(lowest[c], doubles(row + k) - doubles(prices + k));
    }
  for (; j < columns; ++j) lowest[0][0] = std::min(lowest[0][0], row[j] - prices[j]);
  const F64 x = smaller(smaller(lowest[0], lowest[1]), smaller(lowest[2], lowest[3]));
  double least = x[0];
  for (int64_t l = 1; l < LANES; ++l) least = std::min(least, x[l]);
  return least;
}
double lowest_float(const float* row, const double* prices, int64_t columns) {
  return lowest_of(row, prices, columns);
}
double lowest_double(const double* row, const double* prices, int64_t columns) {
  return lowest_of(row, prices, columns);
}

template <class T>
FASTGEN_INLINE double squared_distance(const T* a, const T* b, int64_t count) {
  constexpr int64_t LANES = 32;  // on every ISA: the order of the sum is part of the result
  double sums[LANES] = {};
  int64_t j = 0;
  for (; j + LANES <= count; j += LANES)
    for (int64_t k = 0; k < LANES; ++k) {
      const double difference = static_cast<double>(a[j + k]) - static_cast<double>(b[j + k]);
      sums[k] += difference * difference;
    }
  for (; j < count; ++j) {
    const double difference = static_cast<double>(a[j]) - static_cast<double>(b[j]);
    sums[0] += difference * difference;
  }
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}
double squared_distance_float(const float* a, const float* b, int64_t count) {
  return squared_distance(a, b, count);
}
double squared_distance_double(const double* a, const double* b, int64_t count) {
  return squared_distance(a, b, count);
}

template <class T>
FASTGEN_INLINE double add_moments(const T* x, int64_t count, T* sums) {
  constexpr int64_t LANES = 32;
  T squares[LANES] = {};
  int64_t j = 0;
  for (; j + LANES <= count; j += LANES)
    for (int64_t k = 0; k < LANES; ++k) {
      sums[j + k] += x[j + k];
      squares[k] += x[j + k] * x[j + k];
    }
  for (; j < count; ++j) {
    sums[j] += x[j];
    squares[0] += x[j] * x[j];
  }
  double sum = 0;
  for (const T part : squares) sum += part;
  return sum;
}
double add_moments_float(const float* x, int64_t count, float* sums) {
  return add_moments(x, count, sums);
}
double add_moments_double(const double* x, int64_t count, double* sums) {
  return add_moments(x, count, sums);
}

}  // namespace
}  // namespace fastgen::assignment
