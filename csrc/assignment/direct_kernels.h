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
using VectorOf = std::conditional_t<sizeof(T) == 4, F32, F64>;

// The first `count` numbers, fewer than a vector has, and `rest` in the other lanes; `from` may be
// the end of what can be read.
#if FASTGEN_INTRINSICS && defined(__AVX512F__)
FASTGEN_INLINE F32 part(const float* from, int64_t count, float rest) {
  return (F32)_mm512_mask_loadu_ps(_mm512_set1_ps(rest), (1u << count) - 1, from);
}
FASTGEN_INLINE F64 part(const double* from, int64_t count, double rest) {
  return (F64)_mm512_mask_loadu_pd(_mm512_set1_pd(rest), (1u << count) - 1, from);
}
FASTGEN_INLINE F64 part_doubles(const float* from, int64_t count, double rest) {
  const __mmask8 mask = (1u << count) - 1;
  return (F64)_mm512_mask_cvtps_pd(_mm512_set1_pd(rest), mask, _mm256_maskz_loadu_ps(mask, from));
}
#elif FASTGEN_INTRINSICS && defined(__AVX2__)
FASTGEN_INLINE __m256i first_lanes(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), (__m256i)lanes());
}
FASTGEN_INLINE __m256i first_wide_lanes(int64_t count) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
}
FASTGEN_INLINE F32 part(const float* from, int64_t count, float rest) {
  const __m256i mask = first_lanes(count);
  return (F32)_mm256_blendv_ps(_mm256_set1_ps(rest), _mm256_maskload_ps(from, mask), (__m256)mask);
}
FASTGEN_INLINE F64 part(const double* from, int64_t count, double rest) {
  const __m256i mask = first_wide_lanes(count);
  return (F64)_mm256_blendv_pd(_mm256_set1_pd(rest), _mm256_maskload_pd(from, mask), (__m256d)mask);
}
FASTGEN_INLINE F64 part_doubles(const float* from, int64_t count, double rest) {
  const __m128i mask = _mm256_castsi256_si128(first_lanes(count));
  const __m256d x = _mm256_cvtps_pd(_mm_maskload_ps(from, mask));
  return (F64)_mm256_blendv_pd(_mm256_set1_pd(rest), x, (__m256d)first_wide_lanes(count));
}
#else
template <class T>
FASTGEN_INLINE VectorOf<T> part(const T* from, int64_t count, T rest) {
  VectorOf<T> x = VectorOf<T>{} + rest;
  for (int64_t l = 0; l < count; ++l) x[l] = from[l];
  return x;
}
FASTGEN_INLINE F64 part_doubles(const float* from, int64_t count, double rest) {
  F64 x = F64{} + rest;
  for (int64_t l = 0; l < count; ++l) x[l] = from[l];
  return x;
}
#endif
FASTGEN_INLINE F64 part_doubles(const double* from, int64_t count, double rest) {
  return part(from, count, rest);
}

FASTGEN_INLINE F64 lane_numbers() {
  F64 lane;
  for (int l = 0; l < WIDE; ++l) lane[l] = l;
  return lane;
}
template <class Mask>
FASTGEN_INLINE bool all_of(Mask mask) {
  return bits((I32)mask) == bits(I32{} - 1);
}

// work(j, x) for vectors x of a row's costs from column j on, infinite beyond the last column.
template <class T, class Work>
FASTGEN_INLINE void each_vector(const T* row, int64_t begin, int64_t end, const Work& work) {
  int64_t j = begin;
  for (; j + WIDE <= end; j += WIDE) work(j, doubles(row + j));
  if (j < end) work(j, part_doubles(row + j, end - j, FARTHEST));
}

template <class V>
FASTGEN_INLINE V load_vector(const void* from) {
  V x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
template <class V>
FASTGEN_INLINE void store_vector(void* to, V x) {
  std::memcpy(to, &x, sizeof x);
}

// Half of the distance in each step: a chain as long as the logarithm of the lanes.
template <int DISTANCE = WIDE / 2>
FASTGEN_INLINE double least_of(F64 x) {
  if constexpr (DISTANCE == 0) {
    return x[0];
  } else {
    // Lanes of int32 move in pairs.
    return least_of<DISTANCE / 2>(smaller(x, (F64)swap<2 * DISTANCE>((I32)x)));
  }
}

template <class T>
FASTGEN_INLINE bool lower_columns(const T* row, int64_t columns, T* lowest, bool* forbidden) {
  using V = VectorOf<T>;
  constexpr int64_t LANES = sizeof(V) / sizeof(T);
  constexpr T MOST = std::numeric_limits<T>::max();
  auto good = V{} == V{}, allowed = good;
  const auto take = [&](int64_t j, V x) {
    good &= x >= V{} - MOST;
    allowed &= x <= V{} + MOST;
    store_vector(lowest + j, smaller(x, load_vector<V>(lowest + j)));
  };
  int64_t j = 0;
  for (; j + LANES <= columns; j += LANES) take(j, load_vector<V>(row + j));
  if (j < columns) take(j, part(row + j, columns - j, MOST));
  *forbidden |= !all_of(allowed);
  return all_of(good);
}
bool direct_lowest_float(const float* row, int64_t columns, float* lowest, bool* forbidden) {
  return lower_columns(row, columns, lowest, forbidden);
}
bool direct_lowest_double(const double* row, int64_t columns, double* lowest, bool* forbidden) {
  return lower_columns(row, columns, lowest, forbidden);
}

// Where in a row the lowest is: looked for among so many columns.
constexpr int64_t BLOCK = 64;

template <class T>
FASTGEN_INLINE Bid bid(const T* row, const double* prices, int64_t columns) {
  // As many independent chains as hide the latency.
  constexpr int64_t CHAINS = 2;
  F64 first[CHAINS], second[CHAINS];
  for (int64_t c = 0; c < CHAINS; ++c) first[c] = second[c] = F64{} + FARTHEST;
  const auto take = [&](int64_t c, F64 x) {
    second[c] = smaller(second[c], larger(first[c], x));
    first[c] = smaller(first[c], x);
  };
  const auto reduced = [&](int64_t j) { return doubles(row + j) - doubles(prices + j); };
  double lowest = FARTHEST;
  int64_t block = -1;
  for (int64_t begin = 0; begin < columns; begin += BLOCK) {
    const int64_t end = std::min(begin + BLOCK, columns);
    int64_t j = begin;
    for (; j + CHAINS * WIDE <= end; j += CHAINS * WIDE)
      for (int64_t c = 0; c < CHAINS; ++c) take(c, reduced(j + c * WIDE));
    each_vector(row, j, end, [&](int64_t k, F64 x) { take(k == j, x - doubles(prices + k)); });
    const F64 lower = smaller(first[0], first[1]);
    if (!bits(lower < F64{} + lowest)) continue;
    lowest = least_of(lower);
    block = begin;
  }
  Bid best{lowest, FARTHEST, 0};
  if (block < 0) return best;
  // Of all lanes but one of the lowest the first is one of the others.
  const F64 low = smaller(first[0], first[1]), high = larger(first[0], first[1]);
  const int lane = __builtin_ctz(bits(low == F64{} + lowest));
  const F64 others = lane_numbers() == F64{} + lane ? F64{} + FARTHEST : low;
  best.second = least_of(smaller(smaller(others, high), smaller(second[0], second[1])));
  for (int64_t j = block;; j += WIDE) {
    const F64 x = j + WIDE <= columns
                      ? reduced(j)
                      : part_doubles(row + j, columns - j, FARTHEST) - doubles(prices + j);
    if (const uint32_t hits = bits(x == F64{} + lowest)) {
      best.column = j + __builtin_ctz(hits);
      return best;
    }
  }
}

// The same for a row so short that to look for the column takes as long as to carry it along.
template <class T>
FASTGEN_INLINE Bid short_bid(const T* row, const double* prices, int64_t columns) {
  F64 first = F64{} + FARTHEST, second = first, column = first, now = lane_numbers();
  each_vector(row, 0, columns, [&](int64_t j, F64 costs) {
    const F64 x = costs - doubles(prices + j);
    column = x < first ? now : column;
    second = smaller(second, larger(first, x));
    first = smaller(first, x);
    now += WIDE;
  });
  const double lowest = least_of(first);
  if (lowest == FARTHEST) return {lowest, lowest, 0};
  const double found = least_of(first == F64{} + lowest ? column : F64{} + FARTHEST);
  const F64 others = column == F64{} + found ? F64{} + FARTHEST : first;
  return {lowest, least_of(smaller(others, second)), static_cast<int64_t>(found)};
}
constexpr int64_t SHORT = 128;
Bid direct_bid_float(const float* row, const double* prices, int64_t columns) {
  return columns <= SHORT ? short_bid(row, prices, columns) : bid(row, prices, columns);
}
Bid direct_bid_double(const double* row, const double* prices, int64_t columns) {
  return columns <= SHORT ? short_bid(row, prices, columns) : bid(row, prices, columns);
}

template <class T>
FASTGEN_INLINE int64_t tight_columns(const T* row, const double* prices, int64_t columns,
                                     double most, int64_t from, int64_t room, int32_t* found) {
  int64_t count = 0;
  const auto look = [&](int64_t first, int64_t last) {
    for (int64_t begin = first; begin < last && count < room; begin += BLOCK)
      each_vector(row, begin, std::min(begin + BLOCK, last), [&](int64_t j, F64 x) {
        uint32_t hits = bits(x - doubles(prices + j) <= F64{} + most);
        for (; hits && count < room; hits &= hits - 1)
          found[count++] = static_cast<int32_t>(j + __builtin_ctz(hits));
      });
  };
  from = from / BLOCK * BLOCK;
  look(from, columns);
  look(0, from);
  return count;
}
int64_t direct_tight_float(const float* row, const double* prices, int64_t columns, double most,
                           int64_t from, int64_t room, int32_t* found) {
  return tight_columns(row, prices, columns, most, from, room, found);
}
int64_t direct_tight_double(const double* row, const double* prices, int64_t columns, double most,
                            int64_t from, int64_t room, int32_t* found) {
  return tight_columns(row, prices, columns, most, from, room, found);
}

template <class T>
FASTGEN_INLINE int64_t free_column(const T* row, const double* prices, const double* blocked,
                                   int64_t columns, const Bid& best) {
  const auto hits = [&](int64_t j, F64 x) {
    return bits((x - doubles(prices + j)) + doubles(blocked + j) == F64{} + best.first);
  };
  int64_t j = best.column / WIDE * WIDE;
  for (; j + WIDE <= columns; j += WIDE)
    if (const uint32_t found = hits(j, doubles(row + j))) return j + __builtin_ctz(found);
  if (j < columns)
    if (const uint32_t found = hits(j, part_doubles(row + j, columns - j, FARTHEST)))
      return j + __builtin_ctz(found);
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
  const F64 nearest = F64{} + base, farthest = F64{} + search->limit;
  F64 least = F64{} + FARTHEST, free = farthest;
  Reached best{FARTHEST, 0};
  int64_t block = -1;
  for (int64_t begin = 0; begin < columns; begin += BLOCK) {
    const int64_t end = std::min(begin + BLOCK, columns);
    each_vector(row, begin, end, [&](int64_t j, F64 x) {
      const F64 through = larger((x - doubles(prices + j)) + shift, nearest);
      F64 now = doubles(dist + j);
      const I64 nearer = through < smaller(now, farthest);
      if (!LONG || bits(nearer)) {
        const I64 rows = load_vector<I64>(before + j);
        store_vector(before + j, nearer ? I64{} + from : rows);
        now = nearer ? through : now;
        store_vector(dist + j, now);
        free = smaller(free, now + doubles(search->blocked + j));
      }
      least = smaller(least, now < 0 ? F64{} + FARTHEST : now);
    });
    if (!bits(least < F64{} + best.dist)) continue;
    best.dist = least_of(least);
    block = begin;
  }
  search->limit = least_of(free);
  for (int64_t j = block; block >= 0; j += WIDE)
    if (const uint32_t hits = bits(doubles(dist + j) == F64{} + best.dist))
      return {best.dist, j + __builtin_ctz(hits)};
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
