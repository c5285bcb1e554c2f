// The loops of direct.h over one row. Everything has internal linkage (see lanes.h).
#pragma once
#include <algorithm>
#include <limits>
#include <type_traits>

#include "assignment/direct.h"
#include "assignment/vectors.h"

namespace fastgen::assignment {
namespace {

constexpr int64_t WIDE = W / 2;  // lanes of float64
constexpr double FARTHEST = std::numeric_limits<double>::infinity();

template <class T>
FASTGEN_INLINE bool lower_columns(const T* row, int64_t columns, T* lowest, bool* forbidden) {
  using V = std::conditional_t<sizeof(T) == 4, F32, F64>;
  constexpr int64_t LANES = sizeof(V) / sizeof(T);
  constexpr T MOST = std::numeric_limits<T>::max();
  auto good = V{} == V{}, allowed = good;
  int64_t j = 0;
  for (; j + LANES <= columns; j += LANES) {
    V x, low;
    std::memcpy(&x, row + j, sizeof x);
    std::memcpy(&low, lowest + j, sizeof low);
    good &= x >= V{} - MOST;
    allowed &= x <= V{} + MOST;
    low = smaller(x, low);
    std::memcpy(lowest + j, &low, sizeof low);
  }
  bool all = true, any = false;
  for (int64_t l = 0; l < LANES; ++l) {
    all &= good[l] != 0;
    any |= allowed[l] == 0;
  }
  for (; j < columns; ++j) {
    all &= row[j] >= -MOST;
    any |= !(row[j] <= MOST);
    lowest[j] = std::min(lowest[j], row[j]);
  }
  *forbidden |= any;
  return all;
}
bool direct_lowest_float(const float* row, int64_t columns, float* lowest, bool* forbidden) {
  return lower_columns(row, columns, lowest, forbidden);
}
bool direct_lowest_double(const double* row, int64_t columns, double* lowest, bool* forbidden) {
  return lower_columns(row, columns, lowest, forbidden);
}

// Where in a row the lowest is: looked for among so many columns.
constexpr int64_t BLOCK = 64;

FASTGEN_INLINE double least_of(F64 x) {
  double least = x[0];
  for (int64_t l = 1; l < WIDE; ++l) least = std::min(least, x[l]);
  return least;
}

// The first column from `j` on whose number is `wanted`, which some column has.
template <class Numbers>
FASTGEN_INLINE int64_t find(double wanted, int64_t j, const Numbers& numbers) {
  for (;; j += WIDE)
    if (const uint32_t hits = bits(numbers(j) == F64{} + wanted)) return j + __builtin_ctz(hits);
}

template <class T>
FASTGEN_INLINE Bid bid(const T* row, const double* prices, int64_t columns) {
  Bid best{FARTHEST, FARTHEST, 0};
  const auto reduced = [&](int64_t k) { return doubles(row + k) - doubles(prices + k); };
  // As many independent chains as hide the latency.
  constexpr int64_t CHAINS = 2;
  F64 first[CHAINS], second[CHAINS];
  for (int64_t c = 0; c < CHAINS; ++c) first[c] = second[c] = F64{} + FARTHEST;
  const int64_t whole = columns / WIDE * WIDE;
  int64_t block = -1;
  for (int64_t begin = 0; begin < whole; begin += BLOCK) {
    const int64_t end = std::min(begin + BLOCK, whole);
    int64_t j = begin;
    for (; j + CHAINS * WIDE <= end; j += CHAINS * WIDE)
      for (int64_t c = 0; c < CHAINS; ++c) {
        const F64 x = reduced(j + c * WIDE);
        second[c] = smaller(second[c], larger(first[c], x));
        first[c] = smaller(first[c], x);
      }
    if (j < end) {
      const F64 x = reduced(j);
      second[0] = smaller(second[0], larger(first[0], x));
      first[0] = smaller(first[0], x);
    }
    const F64 lower = smaller(first[0], first[1]);
    if (!bits(lower < F64{} + best.first)) continue;
    best.first = least_of(lower);
    block = begin;
  }
  if (block >= 0) {
    best.column = find(best.first, block, reduced);
    // Of all but one of the lanes the first is one of the others.
    const F64 low = smaller(first[0], first[1]), high = larger(first[0], first[1]);
    double lowest = FARTHEST;
    for (int64_t l = 0; l < WIDE; ++l) {
      best.second = std::min(best.second, std::max(lowest, low[l]));
      lowest = std::min(lowest, low[l]);
    }
    best.second = std::min(best.second, least_of(smaller(high, smaller(second[0], second[1]))));
  }
  for (int64_t j = whole; j < columns; ++j) {
    const double x = row[j] - prices[j];
    best.second = std::min(best.second, std::max(best.first, x));
    if (x < best.first) best = {x, best.second, j};
  }
  return best;
}
Bid direct_bid_float(const float* row, const double* prices, int64_t columns) {
  return bid(row, prices, columns);
}
Bid direct_bid_double(const double* row, const double* prices, int64_t columns) {
  return bid(row, prices, columns);
}

template <class T>
FASTGEN_INLINE int64_t free_column(const T* row, const double* prices, const double* blocked,
                                   int64_t columns, const Bid& best) {
  int64_t j = best.column / WIDE * WIDE;
  for (; j + WIDE <= columns; j += WIDE) {
    const F64 x = (doubles(row + j) - doubles(prices + j)) + doubles(blocked + j);
    if (const uint32_t hits = bits(x == F64{} + best.first)) return j + __builtin_ctz(hits);
  }
  for (; j < columns; ++j)
    if (row[j] - prices[j] + blocked[j] == best.first) return j;
  return -1;
}
int64_t direct_free_float(const float* row, const double* prices, const double* blocked,
                          int64_t columns, const Bid& best) {
  return free_column(row, prices, blocked, columns, best);
}
int64_t direct_free_double(const double* row, const double* prices, const double* blocked,
                           int64_t columns, const Bid& best) {
  return free_column(row, prices, blocked, columns, best);
}

// In long rows most vectors change nothing; in short ones it is not known which.
template <bool LONG, class T>
FASTGEN_INLINE Reached reach(const T* row, const double* prices, int64_t columns, double shift,
                             double base, int64_t from, Search* search) {
  double* dist = search->dist;
  int64_t* before = search->before;
  const double limit = search->limit;
  const F64 nearest = F64{} + base, farthest = F64{} + limit;
  F64 least = F64{} + FARTHEST, free = least;
  Reached best{FARTHEST, 0};
  const int64_t whole = columns / WIDE * WIDE;
  int64_t block = -1;
  for (int64_t begin = 0; begin < whole; begin += BLOCK) {
    const int64_t end = std::min(begin + BLOCK, whole);
    for (int64_t j = begin; j < end; j += WIDE) {
      const F64 through = larger((doubles(row + j) - doubles(prices + j)) + shift, nearest);
      F64 now = doubles(dist + j);
      const I64 nearer = through < smaller(now, farthest);
      if (!LONG || bits(nearer)) {
        I64 rows;
        std::memcpy(&rows, before + j, sizeof rows);
        rows = nearer ? I64{} + from : rows;
        std::memcpy(before + j, &rows, sizeof rows);
        now = nearer ? through : now;
        std::memcpy(dist + j, &now, sizeof now);
        free = smaller(free, now + doubles(search->blocked + j));
      }
      least = smaller(least, now < 0 ? F64{} + FARTHEST : now);
    }
    if (!bits(least < F64{} + best.dist)) continue;
    best.dist = least_of(least);
    block = begin;
  }
  if (block >= 0)
    best.column = find(best.dist, block, [&](int64_t j) { return doubles(dist + j); });
  search->limit = std::min(limit, least_of(free));
  for (int64_t j = whole; j < columns; ++j) {
    const double through = std::max((row[j] - prices[j]) + shift, base);
    if (through < std::min(dist[j], limit)) {
      dist[j] = through;
      before[j] = from;
      search->limit = std::min(search->limit, through + search->blocked[j]);
    }
    if (dist[j] >= 0 && dist[j] < best.dist) best = {dist[j], j};
  }
  return best;
}
constexpr int64_t LONG_FROM = 256;
Reached direct_reach_float(const float* row, const double* prices, int64_t columns, double shift,
                           double base, int64_t from, Search* search) {
  return columns < LONG_FROM ? reach<false>(row, prices, columns, shift, base, from, search)
                             : reach<true>(row, prices, columns, shift, base, from, search);
}
Reached direct_reach_double(const double* row, const double* prices, int64_t columns, double shift,
                            double base, int64_t from, Search* search) {
  return columns < LONG_FROM ? reach<false>(row, prices, columns, shift, base, from, search)
                             : reach<true>(row, prices, columns, shift, base, from, search);
}

}  // namespace
}  // namespace fastgen::assignment
