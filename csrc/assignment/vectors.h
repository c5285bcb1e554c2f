// Operations on vectors of W lanes of int32 (see lanes.h).
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "assignment/problem.h"
#include "common/lanes.h"

namespace fastgen::assignment {
namespace {

FASTGEN_INLINE I32 load(const int32_t* from) {
  I32 x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
FASTGEN_INLINE void store(int32_t* to, I32 x) { std::memcpy(to, &x, sizeof x); }
FASTGEN_INLINE I32 fill(int32_t x) { return I32{} + x; }
FASTGEN_INLINE I32 lanes() {
  I32 lane;
  for (int i = 0; i < W; ++i) lane[i] = i;
  return lane;
}

#if FASTGEN_INTRINSICS && defined(__AVX512F__)
FASTGEN_INLINE I32 smaller(I32 a, I32 b) { return (I32)_mm512_min_epi32((__m512i)a, (__m512i)b); }
FASTGEN_INLINE I32 larger(I32 a, I32 b) { return (I32)_mm512_max_epi32((__m512i)a, (__m512i)b); }
FASTGEN_INLINE uint32_t bits(I32 mask) { return _mm512_movepi32_mask((__m512i)mask); }
FASTGEN_INLINE uint32_t bits(I64 mask) { return _mm512_movepi64_mask((__m512i)mask); }
FASTGEN_INLINE I32 gather(const int32_t* from, I32 at) {
  return (I32)_mm512_i32gather_epi32((__m512i)at, from, 4);
}
// Writes the lanes of x where the mask is set, and rubbish after them; returns how many.
FASTGEN_INLINE int pack(int32_t* to, I32 x, I32 mask) {
  const uint32_t set = bits(mask);
  store(to, (I32)_mm512_maskz_compress_epi32(set, (__m512i)x));
  return __builtin_popcount(set);
}
#elif FASTGEN_INTRINSICS && defined(__AVX2__)
FASTGEN_INLINE I32 smaller(I32 a, I32 b) { return (I32)_mm256_min_epi32((__m256i)a, (__m256i)b); }
FASTGEN_INLINE I32 larger(I32 a, I32 b) { return (I32)_mm256_max_epi32((__m256i)a, (__m256i)b); }
FASTGEN_INLINE uint32_t bits(I32 mask) { return _mm256_movemask_ps((__m256)mask); }
FASTGEN_INLINE uint32_t bits(I64 mask) { return _mm256_movemask_pd((__m256d)mask); }
FASTGEN_INLINE I32 gather(const int32_t* from, I32 at) {
  return (I32)_mm256_i32gather_epi32(from, (__m256i)at, 4);
}

// Entry s: the places of the bits set in s, a byte each.
struct Places {
  uint64_t of[256];
  constexpr Places() : of() {
    for (int set = 0; set < 256; ++set) {
      int count = 0;
      for (uint64_t i = 0; i < 8; ++i)
        if (set >> i & 1) of[set] |= i << 8 * count++;
    }
  }
};
constexpr Places PLACES;

// Writes the lanes of x where the mask is set, and rubbish after them; returns how many.
FASTGEN_INLINE int pack(int32_t* to, I32 x, I32 mask) {
  const uint32_t set = bits(mask);
  const __m256i from = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)&PLACES.of[set]));
  store(to, (I32)_mm256_permutevar8x32_epi32((__m256i)x, from));
  return __builtin_popcount(set);
}
#else
FASTGEN_INLINE I32 smaller(I32 a, I32 b) { return a < b ? a : b; }
FASTGEN_INLINE I32 larger(I32 a, I32 b) { return a > b ? a : b; }
#if FASTGEN_INTRINSICS
FASTGEN_INLINE uint32_t bits(I32 mask) { return _mm_movemask_ps((__m128)mask); }
FASTGEN_INLINE uint32_t bits(I64 mask) { return _mm_movemask_pd((__m128d)mask); }
#else
FASTGEN_INLINE uint32_t bits(I32 mask) {
  uint32_t all = 0;
  for (int i = 0; i < W; ++i) all |= (mask[i] & 1u) << i;
  return all;
}
FASTGEN_INLINE uint32_t bits(I64 mask) {
  uint32_t all = 0;
  for (int i = 0; i < W / 2; ++i) all |= static_cast<uint32_t>(mask[i] & 1) << i;
  return all;
}
#endif
FASTGEN_INLINE int pack(int32_t* to, I32 x, I32 mask) {
  int count = 0;
  for (uint32_t left = bits(mask); left; left &= left - 1) to[count++] = x[__builtin_ctz(left)];
  return count;
}
#endif

// Of numbers none of which is NaN.
#if FASTGEN_INTRINSICS && defined(__AVX512F__)
FASTGEN_INLINE F32 smaller(F32 a, F32 b) { return (F32)_mm512_min_ps((__m512)a, (__m512)b); }
FASTGEN_INLINE F32 larger(F32 a, F32 b) { return (F32)_mm512_max_ps((__m512)a, (__m512)b); }
FASTGEN_INLINE F64 smaller(F64 a, F64 b) { return (F64)_mm512_min_pd((__m512d)a, (__m512d)b); }
FASTGEN_INLINE F64 larger(F64 a, F64 b) { return (F64)_mm512_max_pd((__m512d)a, (__m512d)b); }
#elif FASTGEN_INTRINSICS && defined(__AVX2__)
FASTGEN_INLINE F32 smaller(F32 a, F32 b) { return (F32)_mm256_min_ps((__m256)a, (__m256)b); }
FASTGEN_INLINE F32 larger(F32 a, F32 b) { return (F32)_mm256_max_ps((__m256)a, (__m256)b); }
FASTGEN_INLINE F64 smaller(F64 a, F64 b) { return (F64)_mm256_min_pd((__m256d)a, (__m256d)b); }
FASTGEN_INLINE F64 larger(F64 a, F64 b) { return (F64)_mm256_max_pd((__m256d)a, (__m256d)b); }
#else
FASTGEN_INLINE F32 smaller(F32 a, F32 b) { return a < b ? a : b; }
FASTGEN_INLINE F32 larger(F32 a, F32 b) { return a > b ? a : b; }
FASTGEN_INLINE F64 smaller(F64 a, F64 b) { return a < b ? a : b; }
FASTGEN_INLINE F64 larger(F64 a, F64 b) { return a > b ? a : b; }
#endif

// The next vector of doubles from numbers of either precision.
FASTGEN_INLINE F64 doubles(const double* from) {
  F64 x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
FASTGEN_INLINE F64 doubles(const float* from) {
  typedef float Half __attribute__((vector_size(sizeof(F32) / 2)));
  Half x;
  std::memcpy(&x, from, sizeof x);
  return __builtin_convertvector(x, F64);
}

FASTGEN_INLINE int32_t horizontal_max(I32 x) {
  int32_t highest = x[0];
  for (int i = 1; i < W; ++i) highest = std::max(highest, x[i]);
  return highest;
}

template <int DISTANCE>
FASTGEN_INLINE I32 swap(I32 x) {
  I32 from;
#ifdef __clang__  // has no __builtin_shuffle
  for (int i = 0; i < W; ++i) from[i] = x[i ^ DISTANCE];
  return from;
#else
  for (int i = 0; i < W; ++i) from[i] = i ^ DISTANCE;
  return __builtin_shuffle(x, from);
#endif
}

// Lanes of partial results: the lowest reduced cost, the lowest column that has it, the next.
struct Candidates {
  I32 first, second, column;
};

FASTGEN_INLINE Candidates merge(const Candidates& a, const Candidates& b) {
  const I32 wins = (b.first < a.first) | ((b.first == a.first) & (b.column < a.column));
  return {smaller(a.first, b.first), smaller(larger(a.first, b.first), smaller(a.second, b.second)),
          wins ? b.column : a.column};
}

template <int DISTANCE = W / 2>
FASTGEN_INLINE Best best_of(const Candidates& x) {
  if constexpr (DISTANCE == 0) {
    return {x.column[0], x.first[0], x.second[0]};
  } else {
    const Candidates y{swap<DISTANCE>(x.first), swap<DISTANCE>(x.second), swap<DISTANCE>(x.column)};
    return best_of<DISTANCE / 2>(merge(x, y));
  }
}

}  // namespace
}  // namespace fastgen::assignment
