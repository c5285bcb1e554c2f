// G numbers that are worked on together, in the lanes of a vector; for G = 1 a number by itself.
// What happens to a lane is the same for every G. Internal linkage: each instruction set has its
// own.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common/lanes.h"

namespace fastgen {
namespace {

template <class T, int G>
struct PackOf {
  typedef T type __attribute__((vector_size(G * sizeof(T))));
};
template <class T>
struct PackOf<T, 1> {
  using type = T;
};
template <class T, int G>
using Pack = typename PackOf<T, G>::type;

// As many as a vector has float64 lanes.
constexpr int GROUP = W / 2;

template <class P, class T>
FASTGEN_INLINE P load(const T* from) {
  P x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
template <class P, class T>
FASTGEN_INLINE void store(T* to, P x) {
  std::memcpy(to, &x, sizeof x);
}

template <class To, class From>
FASTGEN_INLINE To converted(From x) {
  if constexpr (std::is_arithmetic_v<From>)
    return static_cast<To>(x);
  else
    return __builtin_convertvector(x, To);
}

// x where the lane of a comparison holds, else y.
template <class Mask, class P>
FASTGEN_INLINE P where(Mask mask, P x, P y) {
  return mask ? x : y;
}

// As std::max, std::min and std::abs.
template <class P>
FASTGEN_INLINE P larger(P x, P y) {
  return where(x < y, y, x);
}
template <class P>
FASTGEN_INLINE P smaller(P x, P y) {
  return where(y < x, y, x);
}
template <class P>
FASTGEN_INLINE P size_of(P x) {
  if constexpr (std::is_arithmetic_v<P>) {
    return std::abs(x);
  } else {
    using Bits = decltype(x < x);
    return (P)((Bits)x & ~(Bits)(-P{}));
  }
}

// f of each float64 lane by itself, as a loop that is made into vectors.
template <int G, class Function>
FASTGEN_INLINE Pack<double, G> each(Pack<double, G> x, const Function& f) {
  double lane[G];
  store(lane, x);
  for (int l = 0; l < G; ++l) lane[l] = f(lane[l]);
  return load<Pack<double, G>>(lane);
}

// The lanes of a comparison of float64 or int64 lanes that hold, as bits.
FASTGEN_INLINE unsigned bits_of(bool mask) { return mask; }
template <class Mask, class = std::enable_if_t<!std::is_arithmetic_v<Mask>>>
FASTGEN_INLINE unsigned bits_of(Mask mask) {
#if FASTGEN_INTRINSICS
#if defined(__AVX512F__)
  if constexpr (sizeof mask == 64) {
    return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask);
  } else
#endif
#if defined(__AVX2__)
      if constexpr (sizeof mask == 32) {
    return static_cast<unsigned>(_mm256_movemask_pd((__m256d)mask));
  } else
#endif
      if constexpr (sizeof mask == 16) {
    return static_cast<unsigned>(_mm_movemask_pd((__m128d)mask));
  } else
#endif
  {
    unsigned bits = 0;
    for (unsigned l = 0; l < sizeof mask / 8; ++l) bits |= static_cast<unsigned>(mask[l] & 1) << l;
    return bits;
  }
}

// The lanes `From` of x, then (from G on) those of y.
template <int... From, class P>
FASTGEN_INLINE P lanes_of(P x, P y) {
#if defined(__clang__)
  return __builtin_shufflevector(x, y, From...);
#else
  using Bits = decltype(x < y);
  return __builtin_shuffle(x, y, Bits{From...});
#endif
}

}  // namespace
}  // namespace fastgen
