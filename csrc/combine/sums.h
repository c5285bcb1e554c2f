// Sums over the tiles of their terms, and the choice between two of them where elements are known.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "combine/operation.h"
#include "common/lanes.h"

namespace fastgen {
namespace {

constexpr int TILE = 512;

template <class Real>
struct Sum {
  int terms;
  int source[MAX_SOURCES];
  Real coefficient[MAX_SOURCES];
};

template <class Real>
FASTGEN_INLINE Real chosen(Real sum, Real other, uint8_t known) {
  // Without a branch, and on bits: compilers make vectors of that on every instruction set.
  using Bits = std::conditional_t<sizeof(Real) == 8, int64_t, int32_t>;
  Bits a, b;
  std::memcpy(&a, &sum, sizeof a);
  std::memcpy(&b, &other, sizeof b);
  a ^= (a ^ b) & -static_cast<Bits>(known);
  std::memcpy(&sum, &a, sizeof a);
  return sum;
}

// What becomes of a sum, by its place in the tile: it is the result.
struct Plainly {
  template <class Real>
  FASTGEN_INLINE Real operator()(Real sum, int64_t) const {
    return sum;
  }
};

// Or another sum is where bytes say so.
template <class Real>
struct Chosen {
  const Real* other;
  const uint8_t* mask;

  FASTGEN_INLINE Real operator()(Real sum, int64_t i) const {
    return chosen(sum, other[i], mask[i]);
  }
};

// Or what weights say lies between both.
template <class Real>
struct Mixed {
  const Real *other, *mask;

  FASTGEN_INLINE Real operator()(Real p, int64_t i) const {
    const Real q = other[i], m = mask[i], way = q - p;
    const Real near = p + m * way, far = q - way * (1 - m);
    const Real between = m < Real(0.5) ? near : far;
    return m <= 0 ? p : m >= 1 ? q : between;
  }
};

template <int N, class Real, class Result>
void add_terms(const Sum<Real>& sum, const Real* const* value, Real* to, int64_t count,
               const Result& result) {
  const Real* x[N];
  Real c[N];
  for (int k = 0; k < N; ++k) x[k] = value[sum.source[k]], c[k] = sum.coefficient[k];
#pragma GCC ivdep  // `to` may be one of x, but never another part of it
  for (int64_t i = 0; i < count; ++i) {
    Real total = c[0] * x[0][i];
    for (int k = 1; k < N; ++k) total += c[k] * x[k][i];
    to[i] = result(total, i);
  }
}

template <class Real, class Result>
void add_many_terms(const Sum<Real>& sum, const Real* const* value, Real* to, int64_t count,
                    const Result& result) {
  alignas(64) Real total[TILE]{};
  for (int k = 0; k < sum.terms; ++k) {
    const Real c = sum.coefficient[k], *x = value[sum.source[k]];
    for (int64_t i = 0; i < count; ++i) total[i] += c * x[i];
  }
  for (int64_t i = 0; i < count; ++i) to[i] = result(total[i], i);
}

template <class Real, class Result = Plainly>
void add_terms(const Sum<Real>& sum, const Real* const* value, Real* to, int64_t count,
               const Result& result = {}) {
  switch (sum.terms) {
    case 1: return add_terms<1>(sum, value, to, count, result);
    case 2: return add_terms<2>(sum, value, to, count, result);
    case 3: return add_terms<3>(sum, value, to, count, result);
    case 4: return add_terms<4>(sum, value, to, count, result);
    case 5: return add_terms<5>(sum, value, to, count, result);
    case 6: return add_terms<6>(sum, value, to, count, result);
    default: return add_many_terms(sum, value, to, count, result);
  }
}

// Whether all bytes of a mask are 1, all are 0, or neither.
enum class Side { none, all, some };

inline Side side_of(const uint8_t* mask, int64_t count) {
  constexpr uint64_t ONES = 0x0101010101010101u;
  uint64_t any = 0, all = ONES, word;
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    std::memcpy(&word, mask + i, sizeof word);
    any |= word, all &= word;
  }
  for (; i < count; ++i) any |= mask[i], all &= mask[i] * ONES;
  return any == 0 ? Side::none : all == ONES ? Side::all : Side::some;
}

// A sum of N terms, and one of M terms where bytes say so: both are added up only in blocks where
// both are needed, and only there all of them are read.
template <int N, int M, class Real>
void add_chosen(const Sum<Real>& sum, const Sum<Real>& other, const Real* const* value,
                const uint8_t* mask, Real* to, int64_t count) {
  constexpr int64_t BLOCK = 32;
  const Real *x[N], *y[M];
  Real c[N], d[M];
  for (int k = 0; k < N; ++k) x[k] = value[sum.source[k]], c[k] = sum.coefficient[k];
  for (int k = 0; k < M; ++k) y[k] = value[other.source[k]], d[k] = other.coefficient[k];
  const auto plain = [&](int64_t i) {
    Real total = c[0] * x[0][i];
    for (int k = 1; k < N; ++k) total += c[k] * x[k][i];
    return total;
  };
  const auto known = [&](int64_t i) {
    Real total = d[0] * y[0][i];
    for (int k = 1; k < M; ++k) total += d[k] * y[k][i];
    return total;
  };
  int64_t at = 0;
  for (; at + BLOCK <= count; at += BLOCK) {
    const Side side = side_of(mask + at, BLOCK);
    if (side == Side::none) {
#pragma GCC ivdep  // as in add_terms
      for (int64_t i = at; i < at + BLOCK; ++i) to[i] = plain(i);
    } else if (side == Side::all) {
#pragma GCC ivdep
      for (int64_t i = at; i < at + BLOCK; ++i) to[i] = known(i);
    } else {
#pragma GCC ivdep
      for (int64_t i = at; i < at + BLOCK; ++i) to[i] = chosen(plain(i), known(i), mask[i]);
    }
  }
  for (; at < count; ++at) to[at] = chosen(plain(at), known(at), mask[at]);
}

// The same for few terms; false for others.
template <class Real>
bool add_chosen(const Sum<Real>& sum, const Sum<Real>& other, const Real* const* value,
                const uint8_t* mask, Real* to, int64_t count) {
  switch (64 * sum.terms + other.terms) {
    case 64 * 2 + 1: return add_chosen<2, 1>(sum, other, value, mask, to, count), true;
    case 64 * 2 + 2: return add_chosen<2, 2>(sum, other, value, mask, to, count), true;
    case 64 * 2 + 3: return add_chosen<2, 3>(sum, other, value, mask, to, count), true;
    case 64 * 3 + 2: return add_chosen<3, 2>(sum, other, value, mask, to, count), true;
    case 64 * 3 + 3: return add_chosen<3, 3>(sum, other, value, mask, to, count), true;
    default: return false;
  }
}

}  // namespace
}  // namespace fastgen
