// Vectors of floats or doubles as wide as the instruction set (see lanes.h), and powers of two.
#pragma once
// Scheduled before registers are assigned, as other kernels are, the sums of a micro-kernel spill.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-schedule-insns")
#endif
#include <algorithm>
#include <cmath>

#include "common/philox.h"
#include "pairwise/operation.h"

namespace fastgen::pairwise {
namespace {

constexpr int BYTES = sizeof(F32);

template <class T>
struct Of;
template <>
struct Of<float> {
  using Vector = F32;
  using Integers = I32;
  using Integer = int32_t;
  static constexpr int MANTISSA = 23, DEGREE = 7;
  static constexpr float ROUND = 0x1.8p23f, LOWEST = -126;
};
template <>
struct Of<double> {
  using Vector = F64;
  using Integers = I64;
  using Integer = int64_t;
  static constexpr int MANTISSA = 52, DEGREE = 13;
  static constexpr double ROUND = 0x1.8p52, LOWEST = -1022;
};

template <class T>
constexpr int64_t LANES = BYTES / sizeof(T);
template <class T>
constexpr int64_t WIDTH = 2 * LANES<T>;

template <class V, class T>
FASTGEN_INLINE V load(const T* from) {
  V x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
template <class V, class T>
FASTGEN_INLINE void store(T* to, V x) {
  std::memcpy(to, &x, sizeof x);
}
template <class V>
FASTGEN_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}

// 2^x for x <= 0: the Taylor series of 2^f, |f| <= 1/2, to an error of half an ulp of 1, and the
// exponent's bits. What is below the smallest normal number becomes that number.
template <class T>
FASTGEN_INLINE typename Of<T>::Vector power_of_two(typename Of<T>::Vector x) {
  using V = typename Of<T>::Vector;
  using I = typename Of<T>::Integers;
  x = larger(x, V{} + Of<T>::LOWEST);
  const V shifted = x + Of<T>::ROUND;
  const V f = x - (shifted - Of<T>::ROUND);
  T coefficient[Of<T>::DEGREE + 1];
  double c = 1;
  for (int k = 0; k <= Of<T>::DEGREE; ++k) {
    coefficient[k] = static_cast<T>(c);
    c *= LN2 / (k + 1);
  }
  V p = V{} + coefficient[Of<T>::DEGREE];
  for (int k = Of<T>::DEGREE - 1; k >= 0; --k) p = fused(p, f, V{} + coefficient[k]);
  return (V)((I)p + ((I)shifted << Of<T>::MANTISSA));
}

}  // namespace
}  // namespace fastgen::pairwise
