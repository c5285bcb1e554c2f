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
// Rows of fewer elements than SMALL are worked on side by side, so many at a time: vectors run over
// the elements of all of them.
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

// Small rows from `first` on, side by side, at most SIDE of them, and the steps of their elements.
template <class Real>
struct Side {
  const Integration& op;
  int64_t first, rows, size;
  double h[SIDE * SMALL];

  Side(const Integration& integration, int64_t begin, int64_t end)
      : op(integration), first(begin), rows(std::min(SIDE, end - begin)), size(rows * op.elements) {
    for (int64_t r = 0, i = 0; r < rows; ++r)
      for (int64_t e = 0; e < op.elements; ++e) h[i++] = op.at(STEP, first + r);
  }
  Real* of(void* data) const { return static_cast<Real*>(data) + first * op.elements; }
  const Real* k(int j) const { return of(op.k) + j * op.capacity * op.elements; }
  // to = to + sum_j (h weight_j) k_j from left to right, zero weights left out.
  void add(Real* to, const double* weights, int count) const {
    for (int j = 0; j < count; ++j) {
      if (weights[j] == 0) continue;
      const double w = weights[j];
      const Real* slope = k(j);
      for (int64_t i = 0; i < size; ++i) to[i] = to[i] + static_cast<Real>(h[i] * w) * slope[i];
    }
  }
  // The norms of the rows from the squares of their elements' ratios; see `norm`. There are as many
  // lanes as a small row could need: the sums are the same with zeros in the others.
  void norms(double* found, const double* squares) const {
    double lane[SMALL][SIDE];
    std::fill_n(found, rows, 0.0);
    int64_t begin = 0;
    for (int g = 0; g < op.segments; ++g) {
      const int64_t end = op.segment_ends[g];
      for (int64_t j = 0; j < SMALL; ++j)
        for (int64_t r = 0; r < rows; ++r)
          lane[j][r] = begin + j < end ? squares[r * op.elements + begin + j] : 0.0;
      for (int64_t half = SMALL / 2; half; half /= 2)
        for (int64_t j = 0; j < half; ++j)
          for (int64_t r = 0; r < rows; ++r) lane[j][r] = lane[j][r] + lane[j + half][r];
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t live = op.live_of(first + r)[g];
        const double mean = live ? std::sqrt(lane[0][r] / static_cast<double>(live)) : 0.0;
        if (!(mean <= found[r])) found[r] = mean;  // stays NaN
      }
      begin = end;
    }
  }
};

// The stages that the interpolant's polynomials read.
struct Dense {
  int used[MAX_STAGES], count = 0;

  explicit Dense(const Integration& op) {
    for (int j = 0; j < op.stages; ++j)
      if (const double* p = op.dense + j * op.degree; p[0] != 0 || p[1] != 0) used[count++] = j;
  }
};

// Outputs that rows have passed, read off together: vectors run over the outputs.
template <class Real>
class Due {
 public:
  Due(const Integration& op, const Dense& dense) : op_(op), dense_(dense) {}
  // to = y(t + theta h) of a row, at the latest in `flush`.
  void add(Real* to, int64_t row, double theta, double h) {
    if (count_ == SIDE) flush();
    // Rows pass outputs at other times than each other: what is written next is in no cache.
    __builtin_prefetch(to, 1);
    to_[count_] = to;
    row_[count_] = row;
    theta_[count_] = theta;
    h_[count_++] = h;
  }
  // to = y + sum_j h b_j(theta) k_j of each.
  void flush() {
    if (count_ == 0) return;
    for (int j = 0; j < dense_.count; ++j) {
      const double* p = op_.dense + dense_.used[j] * op_.degree;
      double b[SIDE];
      const int64_t rounded = (count_ + 7) / 8 * 8;  // whole vectors
      std::fill_n(b, rounded, p[op_.degree - 1]);
      for (int d = op_.degree - 2; d >= 0; --d)
        for (int64_t i = 0; i < rounded; ++i) b[i] = b[i] * theta_[i] + p[d];
      for (int64_t i = 0; i < rounded; ++i)
        weight_[j][i] = static_cast<Real>(h_[i] * (b[i] * theta_[i]));
    }
    if (!small<SMALL - 1>()) {
      for (int64_t i = 0; i < count_; ++i) {
        const Row<Real> row{op_, row_[i]};
        Terms<Real> terms;
        for (int j = 0; j < dense_.count; ++j) terms.add(weight_[j][i], row.k(dense_.used[j]));
        sum(to_[i], row.y(), terms, op_.elements);
      }
    }
    count_ = 0;
  }

 private:
  // The sums of rows of at most N elements, term by term of all outputs; false for longer rows.
  template <int N>
  bool small() {
    if constexpr (N > 0) {
      if (op_.elements != N) return small<N - 1>();
      Real total[SIDE * N];
      const Real* y = static_cast<const Real*>(op_.y);
      for (int64_t i = 0; i < count_; ++i)
        for (int e = 0; e < N; ++e) total[i * N + e] = y[row_[i] * N + e];
      for (int j = 0; j < dense_.count; ++j) {
        const Real* k = static_cast<const Real*>(op_.k) + dense_.used[j] * op_.capacity * N;
        for (int64_t i = 0; i < count_; ++i)
          for (int e = 0; e < N; ++e)
            total[i * N + e] = total[i * N + e] + weight_[j][i] * k[row_[i] * N + e];
      }
      for (int64_t i = 0; i < count_; ++i)
        for (int e = 0; e < N; ++e) to_[i][e] = total[i * N + e];
      return true;
    }
    return false;
  }

  const Integration& op_;
  const Dense& dense_;
  int64_t count_ = 0, row_[SIDE];
  Real *to_[SIDE], weight_[MAX_STAGES][SIDE];
  double theta_[SIDE] = {}, h_[SIDE] = {};
};

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
