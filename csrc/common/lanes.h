// Vectors of W 32-bit lanes as wide as the translation unit's instruction set, and the few
// operations that GCC's vector extensions express badly. Everything has internal linkage: the
// linker must never replace a baseline function by its AVX-512 namesake.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__SSE2__) && !defined(FASTGEN_PORTABLE_LANES)
#include <immintrin.h>
#define FASTGEN_INTRINSICS 1
#endif

#define FASTGEN_INLINE inline __attribute__((always_inline))

namespace fastgen {
namespace {

#if defined(FASTGEN_PORTABLE_LANES)
constexpr int W = FASTGEN_PORTABLE_LANES;
#elif defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float F32 __attribute__((vector_size(4 * W)));
typedef int32_t I32 __attribute__((vector_size(4 * W)));
typedef uint32_t U32 __attribute__((vector_size(4 * W)));
// W / 2 lanes
typedef double F64 __attribute__((vector_size(4 * W)));
typedef int64_t I64 __attribute__((vector_size(4 * W)));
typedef uint64_t U64 __attribute__((vector_size(4 * W)));

FASTGEN_INLINE F32 to_float(I32 x) { return __builtin_convertvector(x, F32); }

// The word of which position each lane computes, so that four 4 x 4 transposes inside 128-bit
// parts put 4 W normals in order: lane 4 q + k holds position (W / 4) k + q. Even lanes live in
// the first of two 64-bit vectors, odd lanes in the second; `slot` is a lane's place in the pair.
constexpr int slot(int position) {
  const int k = position / (W / 4), q = position % (W / 4);
  return (k & 1) * (W / 2) + 2 * q + k / 2;
}

#if FASTGEN_INTRINSICS && defined(__AVX512F__)

FASTGEN_INLINE U64 multiply_wide(U64 a, uint32_t m) {
  return (U64)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
}
FASTGEN_INLINE U32 join(U64 even, U64 odd) {
  return (U32)_mm512_mask_shuffle_epi32((__m512i)even, 0xAAAA, (__m512i)odd, _MM_PERM_CCAA);
}
FASTGEN_INLINE F32 to_float(U32 x) { return (F32)_mm512_cvtepu32_ps((__m512i)x); }
FASTGEN_INLINE F32 square_root(F32 x) { return (F32)_mm512_sqrt_ps((__m512)x); }
FASTGEN_INLINE void stream(float* to, F32 x) { _mm512_stream_ps(to, (__m512)x); }
FASTGEN_INLINE F32 low_pairs(F32 a, F32 b) { return (F32)_mm512_unpacklo_ps((__m512)a, (__m512)b); }
FASTGEN_INLINE F32 high_pairs(F32 a, F32 b) {
  return (F32)_mm512_unpackhi_ps((__m512)a, (__m512)b);
}
FASTGEN_INLINE F32 low_halves(F32 a, F32 b) {
  return (F32)_mm512_unpacklo_pd((__m512d)a, (__m512d)b);
}
FASTGEN_INLINE F32 high_halves(F32 a, F32 b) {
  return (F32)_mm512_unpackhi_pd((__m512d)a, (__m512d)b);
}

#elif FASTGEN_INTRINSICS && defined(__AVX2__)

FASTGEN_INLINE U64 multiply_wide(U64 a, uint32_t m) {
  return (U64)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
}
FASTGEN_INLINE U32 join(U64 even, U64 odd) {
  return (U32)_mm256_blend_epi32((__m256i)even, _mm256_slli_epi64((__m256i)odd, 32), 0xAA);
}
FASTGEN_INLINE F32 square_root(F32 x) { return (F32)_mm256_sqrt_ps((__m256)x); }
FASTGEN_INLINE void stream(float* to, F32 x) { _mm256_stream_ps(to, (__m256)x); }
FASTGEN_INLINE F32 low_pairs(F32 a, F32 b) { return (F32)_mm256_unpacklo_ps((__m256)a, (__m256)b); }
FASTGEN_INLINE F32 high_pairs(F32 a, F32 b) {
  return (F32)_mm256_unpackhi_ps((__m256)a, (__m256)b);
}
FASTGEN_INLINE F32 low_halves(F32 a, F32 b) {
  return (F32)_mm256_unpacklo_pd((__m256d)a, (__m256d)b);
}
FASTGEN_INLINE F32 high_halves(F32 a, F32 b) {
  return (F32)_mm256_unpackhi_pd((__m256d)a, (__m256d)b);
}

#elif FASTGEN_INTRINSICS

FASTGEN_INLINE U64 multiply_wide(U64 a, uint32_t m) {
  return (U64)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
}
FASTGEN_INLINE F32 square_root(F32 x) { return (F32)_mm_sqrt_ps((__m128)x); }
FASTGEN_INLINE void stream(float* to, F32 x) { _mm_stream_ps(to, (__m128)x); }
FASTGEN_INLINE F32 low_pairs(F32 a, F32 b) { return (F32)_mm_unpacklo_ps((__m128)a, (__m128)b); }
FASTGEN_INLINE F32 high_pairs(F32 a, F32 b) { return (F32)_mm_unpackhi_ps((__m128)a, (__m128)b); }
FASTGEN_INLINE F32 low_halves(F32 a, F32 b) { return (F32)_mm_unpacklo_pd((__m128d)a, (__m128d)b); }
FASTGEN_INLINE F32 high_halves(F32 a, F32 b) {
  return (F32)_mm_unpackhi_pd((__m128d)a, (__m128d)b);
}

#else

FASTGEN_INLINE U64 multiply_wide(U64 a, uint32_t m) { return (a & 0xFFFFFFFFu) * uint64_t{m}; }
FASTGEN_INLINE F32 square_root(F32 x) {
  for (int i = 0; i < W; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
FASTGEN_INLINE void stream(float* to, F32 x) { std::memcpy(to, &x, sizeof x); }
// Lane i of every 128-bit part takes lane `from[i]` of a, or lane `from[i] - 4` of b.
FASTGEN_INLINE F32 shuffle(F32 a, F32 b, const int (&from)[4]) {
  F32 y;
  for (int i = 0; i < W; ++i) {
    const int j = from[i % 4], part = i & ~3;
    y[i] = j < 4 ? a[part + j] : b[part + j - 4];
  }
  return y;
}
FASTGEN_INLINE F32 low_pairs(F32 a, F32 b) { return shuffle(a, b, {0, 4, 1, 5}); }
FASTGEN_INLINE F32 high_pairs(F32 a, F32 b) { return shuffle(a, b, {2, 6, 3, 7}); }
FASTGEN_INLINE F32 low_halves(F32 a, F32 b) { return shuffle(a, b, {0, 1, 4, 5}); }
FASTGEN_INLINE F32 high_halves(F32 a, F32 b) { return shuffle(a, b, {2, 3, 6, 7}); }

#endif

#if !(FASTGEN_INTRINSICS && defined(__AVX2__))
FASTGEN_INLINE U32 join(U64 even, U64 odd) { return (U32)((even & 0xFFFFFFFFu) | (odd << 32)); }
#endif

#if !(FASTGEN_INTRINSICS && defined(__AVX512F__))
// The halves of x are set exactly into the mantissas of 2^39 and 2^23; removing both powers is
// exact, so the last sum is the only rounding.
FASTGEN_INLINE F32 to_float(U32 x) {
  const F32 high = (F32)((x >> 16) | 0x53000000u), low = (F32)((x & 0xFFFFu) | 0x4B000000u);
  return (high - (0x1p39f + 0x1p23f)) + low;
}
#endif

// a b + c: rounded once where the instruction set has it, else twice.
FASTGEN_INLINE F32 fused(F32 a, F32 b, F32 c) {
#if FASTGEN_INTRINSICS && defined(__AVX512F__)
  return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FASTGEN_INTRINSICS && defined(__FMA__)
  return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}
FASTGEN_INLINE F64 fused(F64 a, F64 b, F64 c) {
#if FASTGEN_INTRINSICS && defined(__AVX512F__)
  return (F64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif FASTGEN_INTRINSICS && defined(__FMA__)
  return (F64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// A copy past the caches; `to` is aligned to a vector.
FASTGEN_INLINE void stream_bytes(void* to, const void* from, int64_t bytes) {
  int64_t at = 0;
  for (; at + int64_t{sizeof(F32)} <= bytes; at += sizeof(F32)) {
    F32 x;
    std::memcpy(&x, static_cast<const char*>(from) + at, sizeof x);
    stream(reinterpret_cast<float*>(static_cast<char*>(to) + at), x);
  }
  std::memcpy(static_cast<char*>(to) + at, static_cast<const char*>(from) + at, bytes - at);
}

// Makes streamed stores visible to other threads.
FASTGEN_INLINE void finish_streams() {
#if FASTGEN_INTRINSICS
  _mm_sfence();
#endif
}

FASTGEN_INLINE U64 splat(uint64_t x) { return U64{} + x; }

// The product of the low words, of one number.
FASTGEN_INLINE uint64_t multiply_wide(uint64_t a, uint32_t m) { return (a & 0xFFFFFFFFu) * m; }

// W 64-bit lanes, by their places (see `slot`).
union Lanes {
  U64 pair[2];
  uint64_t at[W];
};

// Stores z_0[0], z_1[0], z_2[0], z_3[0], z_0[1] ... by position (see `slot`).
FASTGEN_INLINE void store_interleaved(float* to, F32 z0, F32 z1, F32 z2, F32 z3) {
  const F32 a = low_pairs(z0, z1), b = low_pairs(z2, z3);
  const F32 c = high_pairs(z0, z1), d = high_pairs(z2, z3);
  const F32 rows[4] = {low_halves(a, b), high_halves(a, b), low_halves(c, d), high_halves(c, d)};
  std::memcpy(to, rows, sizeof rows);
}

}  // namespace
}  // namespace fastgen
