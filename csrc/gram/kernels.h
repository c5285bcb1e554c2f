// Sums in float64, in eight lanes whatever the instruction set: element e of a part goes to lane
// e % 8. Products of float32 numbers are exact in float64, so fused steps round as others do; those
// of float64 numbers are not fused.
#pragma once
#include "common/convert.h"
#include "gram/operation.h"

namespace fastgen {
namespace {

constexpr int SUM_LANES = 8, VECTORS = SUM_LANES / (W / 2);
constexpr int GRAM_TILE = 512;
typedef float HalfF32 __attribute__((vector_size(2 * W)));  // W / 2 lanes

FASTGEN_INLINE F64 doubles(const float* from) {
  HalfF32 x;
  std::memcpy(&x, from, sizeof x);
  return __builtin_convertvector(x, F64);
}
FASTGEN_INLINE F64 doubles(const double* from) {
  F64 x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

FASTGEN_INLINE F64 add_product(F64 sum, F64 a, F64 b, const float*) { return fused(a, b, sum); }
FASTGEN_INLINE F64 add_product(F64 sum, F64 a, F64 b, const double*) { return sum + a * b; }

template <int N>
constexpr int ENTRIES = N * (N + 1) / 2 + N;

// Adds `count` elements, a multiple of SUM_LANES.
template <int N, class Real>
void add_tile(const Real* const* values, int64_t count, F64 (*sums)[VECTORS]) {
  F64 s[ENTRIES<N>][VECTORS];
  std::memcpy(s, sums, sizeof s);
  for (int64_t at = 0; at < count; at += SUM_LANES)
    for (int v = 0; v < VECTORS; ++v) {
      F64 x[N];
      for (int i = 0; i < N; ++i) x[i] = doubles(values[i] + at + v * (W / 2));
      int e = 0;
      for (int i = 0; i < N; ++i)
        for (int j = i; j < N; ++j, ++e) s[e][v] = add_product(s[e][v], x[i], x[j], values[0]);
      for (int i = 0; i < N; ++i, ++e) s[e][v] += x[i];
    }
  std::memcpy(sums, s, sizeof s);
}

template <int N, class Real>
void part_of_row(const Gram& op, int64_t first, int64_t count, double* to) {
  alignas(64) Real tile[N][GRAM_TILE];
  F64 sums[ENTRIES<N>][VECTORS]{};
  const Real* values[N];
  for (int64_t at = 0; at < count; at += GRAM_TILE) {
    const int64_t some = std::min<int64_t>(GRAM_TILE, count - at);
    const int64_t whole = (some + SUM_LANES - 1) / SUM_LANES * SUM_LANES;
    for (int i = 0; i < N; ++i) {
      if (op.input_type[i] == dtype_of<Real> && whole == some) {
        values[i] = static_cast<const Real*>(op.input[i]) + first + at;
        continue;
      }
      load(tile[i], op.input[i], op.input_type[i], first + at, some);
      std::fill(tile[i] + some, tile[i] + whole, Real{0});
      values[i] = tile[i];
    }
    add_tile<N>(values, whole, sums);
  }
  for (int e = 0; e < ENTRIES<N>; ++e) {
    double lanes[SUM_LANES], total = 0;
    std::memcpy(lanes, sums[e], sizeof lanes);
    for (const double x : lanes) total += x;
    to[e] = total;
  }
}

template <int N>
void parts(const Gram& op, int64_t begin, int64_t end) {
  const int64_t per_row = op.parts();
  for (int64_t k = begin; k < end; ++k) {
    const int64_t row = k / per_row, at = k % per_row * GRAM_PART;
    const int64_t count = std::min(GRAM_PART, op.elements - at);
    double* to = op.partials + k * op.entries();
    if (op.float64)
      part_of_row<N, double>(op, row * op.elements + at, count, to);
    else
      part_of_row<N, float>(op, row * op.elements + at, count, to);
  }
}

void gram_of_parts(const Gram& op, int64_t begin, int64_t end) {
  switch (op.inputs) {
    case 1: return parts<1>(op, begin, end);
    case 2: return parts<2>(op, begin, end);
    case 3: return parts<3>(op, begin, end);
    case 4: return parts<4>(op, begin, end);
    case 5: return parts<5>(op, begin, end);
    case 6: return parts<6>(op, begin, end);
    case 7: return parts<7>(op, begin, end);
    case 8: return parts<8>(op, begin, end);
  }
}

}  // namespace
}  // namespace fastgen
