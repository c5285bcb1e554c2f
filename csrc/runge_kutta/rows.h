// Rows of a state: their parts, sums, norms and interpolants. Internal linkage: each instruction
// set has its own.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "runge_kutta/operation.h"

namespace fastgen {
namespace {

constexpr double INF = std::numeric_limits<double>::infinity();
constexpr int64_t TILE = 512;
// Rows of fewer elements than SMALL are worked on together (small.h); a step of so many of them
// is done before that of the next ones.
constexpr int64_t SMALL = 8, SIDE = 64;
constexpr double LEAST_ERROR = 1e-10;  // as in fastgen/common/step_size.py

template <class Real>
struct Row {
  const Integration& op;
  int64_t r;
  Real* y() const { return static_cast<Real*>(op.y) + r * op.elements; }
  Real* y_new() const { return static_cast<Real*>(op.y_new) + r * op.elements; }
  Real* stage() const { return static_cast<Real*>(op.stage) + r * op.elements; }
  Real* k(int i) const { return static_cast<Real*>(op.k) + (i * op.capacity + r) * op.elements; }
  double& operator[](Control what) const { return op.at(what, r); }
  int64_t& operator[](Count what) const { return op.at(what, r); }
  void time(double t) const { static_cast<Real*>(op.stage_times)[r] = static_cast<Real>(t); }
};

// The terms w_j k_j of a sum, those with w_j = 0 left out.
template <class Real>
struct Terms {
  Real weight[MAX_STAGES];
  const Real* k[MAX_STAGES];
  int count = 0;
  void add(Real w, const Real* from) {
    weight[count] = w;
    k[count++] = from;
  }
};

// to = from + sum_j w_j k_j from left to right, or the sum alone; to must be none of the k.
template <class Real>
void sum(Real* to, const Real* from, const Terms<Real>& terms, int64_t elements) {
  if (elements < SMALL) {
    for (int64_t e = 0; e < elements; ++e) {
      Real total = from ? from[e] : Real(0);
      for (int j = 0; j < terms.count; ++j) total = total + terms.weight[j] * terms.k[j][e];
      to[e] = total;
    }
    return;
  }
  for (int64_t at = 0; at < elements; at += TILE) {
    const int64_t size = std::min(TILE, elements - at);
    if (!from)
      std::fill_n(to + at, size, Real(0));
    else if (from != to)
      std::memcpy(to + at, from + at, size * sizeof(Real));
    for (int j = 0; j < terms.count; ++j) {
      const Real w = terms.weight[j];
      const Real* k = terms.k[j] + at;
      Real* out = to + at;
      for (int64_t e = 0; e < size; ++e) out[e] = out[e] + w * k[e];
    }
  }
}

// max over segments of sqrt(mean of (x / scale)^2), scale = atol + rtol max(|y|, |z|); x may be
// a difference x - x0. The mean is over the live elements; padding is 0. NaN where any element is.
template <class Real, class Element>
double norm(const Row<Real>& row, const Element& x, const Real* y, const Real* z) {
  const Real rtol = static_cast<Real>(row[RTOL]), atol = static_cast<Real>(row[ATOL]);
  double largest = 0, lane[LANES];
  const int64_t* live = row.op.live_of(row.r);
  int64_t begin = 0;
  for (int g = 0; g < row.op.segments; ++g) {
    const int64_t end = row.op.segment_ends[g], size = end - begin;
    int64_t lanes = 1;
    while (lanes < LANES && lanes < size) lanes *= 2;
    std::fill_n(lane, lanes, 0.0);
    for (int64_t at = 0; at < size; at += LANES) {
      const int64_t count = std::min<int64_t>(LANES, size - at);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t e = begin + at + i;
        const Real error = x(e);
        const Real larger = std::abs(y[e]) > std::abs(z[e]) ? std::abs(y[e]) : std::abs(z[e]);
        const Real scale = atol + rtol * larger;
        const Real ratio = error == Real(0) ? Real(0) : error / scale;
        lane[i] = lane[i] + static_cast<double>(ratio) * static_cast<double>(ratio);
      }
    }
    for (int64_t half = lanes / 2; half; half /= 2)
      for (int64_t i = 0; i < half; ++i) lane[i] = lane[i] + lane[i + half];
    const double mean = live[g] ? std::sqrt(lane[0] / static_cast<double>(live[g])) : 0.0;
    if (!(mean <= largest)) largest = mean;
    if (std::isnan(largest)) return largest;
    begin = end;
  }
  return largest;
}

// The end of an accepted row's step.
template <class Real>
double arrival(const Row<Real>& row) {
  const double t = row[TIME], h = row[STEP];
  return h == row[END] - t ? row[END] : t + h;
}

template <class Real>
void copy(Real* to, const Real* from, int64_t elements) {
  if (elements >= SMALL) {
    std::memcpy(to, from, elements * sizeof(Real));
    return;
  }
  for (int64_t e = 0; e < elements; ++e) to[e] = from[e];
}

}  // namespace
}  // namespace fastgen
