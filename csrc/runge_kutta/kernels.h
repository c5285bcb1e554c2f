// Internal linkage: each instruction set has its own.
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
  if (elements < 8) {
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
// a difference x - x0. NaN where any element is.
template <class Real, class Element>
double norm(const Row<Real>& row, const Element& x, const Real* y, const Real* z) {
  const Real rtol = static_cast<Real>(row[RTOL]), atol = static_cast<Real>(row[ATOL]);
  double largest = 0, lane[LANES];
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
    const double mean = size ? std::sqrt(lane[0] / static_cast<double>(size)) : 0.0;
    if (!(mean <= largest)) largest = mean;
    if (std::isnan(largest)) return largest;
    begin = end;
  }
  return largest;
}

template <class Real>
void stage_rows(const Integration& op, int i, int64_t begin, int64_t end) {
  const bool last = i == op.stages - 1;
  for (int64_t r = begin; r < end; ++r) {
    const Row<Real> row{op, r};
    const double h = row[STEP];
    Terms<Real> terms;
    for (int j = 0; j < i; ++j)
      if (const double a = op.a[i * op.stages + j]; a != 0 && h != 0)
        terms.add(static_cast<Real>(h * a), row.k(j));
    row.time(row[TIME] + op.c[i] * h);
    Real* to = last ? row.y_new() : row.stage();
    sum(to, row.y(), terms, op.elements);
    if (last) std::memcpy(row.stage(), to, op.elements * sizeof(Real));
  }
}

template <class Real>
void control_rows(const Integration& op, int64_t begin, int64_t end) {
  const StepSize& s = op.step_size;
  for (int64_t r = begin; r < end; ++r) {
    const Row<Real> row{op, r};
    row[TAKEN] = 0;
    if (row[STATUS] != RUNNING) continue;
    const double h = row[STEP], size = std::abs(h);
    Terms<Real> terms;
    for (int j = 0; j < op.stages; ++j)
      if (op.error[j] != 0) terms.add(static_cast<Real>(h * op.error[j]), row.k(j));
    double error;
    if (op.elements < 8) {
      const auto element = [&](int64_t e) {
        Real total = 0;
        for (int j = 0; j < terms.count; ++j) total = total + terms.weight[j] * terms.k[j][e];
        return total;
      };
      error = norm(row, element, row.y(), row.y_new());
    } else {
      // The stage input has been read by now: it takes the error.
      Real* errors = row.stage();
      sum(errors, static_cast<const Real*>(nullptr), terms, op.elements);
      error = norm(row, [errors](int64_t e) { return errors[e]; }, row.y(), row.y_new());
    }
    const bool finite = std::isfinite(error);
    const bool taken = finite && (error <= 1 || size <= s.min_step);
    row[TAKEN] = taken;
    row[ERROR] = error;
    double factor = s.min_factor;
    if (finite) {
      const double e0 = std::max(error, 1e-10);
      factor = s.safety * std::pow(e0, -s.beta[0]);
      if (s.beta[1] != 0) factor = factor * std::pow(row[ERROR_1], -s.beta[1]);
      if (s.beta[2] != 0) factor = factor * std::pow(row[ERROR_2], -s.beta[2]);
      // A row that was just rejected does not grow; one that is rejected shrinks.
      const double ceiling = taken ? (row[PROPOSAL] < 0 ? 1.0 : s.max_factor) : s.safety;
      factor = std::min(std::max(factor, s.min_factor), ceiling);
      if (taken) {
        row[ERROR_2] = row[ERROR_1];
        row[ERROR_1] = e0;
      }
    }
    const double next = std::min(std::max(size * factor, s.min_step), s.max_step);
    row[taken ? ACCEPTED : REJECTED] += 1;
    row[PROPOSAL] = taken ? next : -next;
  }
}

// The step from `time`, of at most the proposed size, that does not overstep the end.
template <class Real>
void propose(const Row<Real>& row, double time) {
  const double rest = row[END] - time, size = std::abs(row[PROPOSAL]);
  row[STEP] = std::abs(rest) <= 1.01 * size ? rest : std::copysign(size, rest);
}

// Ends a row where it has to end, otherwise says what its next step is.
template <class Real>
void advance(const Row<Real>& row, double time) {
  const StepSize& s = row.op.step_size;
  row[TIME] = time;
  if (time == row[END]) {
    row[STATUS] = DONE;
  } else if (row[ACCEPTED] + row[REJECTED] >= s.max_steps) {
    row[STATUS] = MAX_STEPS;
  } else {
    propose(row, time);
    if (time + row[STEP] == time || !std::isfinite(row[STEP]))
      row[STATUS] = std::isfinite(row[ERROR]) ? UNDERFLOW_ : NON_FINITE;
  }
  if (row[STATUS] != RUNNING) row[STEP] = 0;
}

template <class Real>
void commit_rows(const Integration& op, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const Row<Real> row{op, r};
    if (row[STATUS] != RUNNING) continue;
    const double t = row[TIME], h = row[STEP];
    if (!row[TAKEN]) {
      advance(row, t);
      continue;
    }
    const double t_new = h == row[END] - t ? row[END] : t + h;
    const double* times = op.output_times + row[ROW] * op.output_stride;
    int64_t& cursor = row[CURSOR];
    for (; cursor < op.outputs; ++cursor) {
      const double at = times[cursor];
      if (h > 0 ? at > t_new : at < t_new) break;
      Real* to = static_cast<Real*>(op.ys) + (cursor * op.capacity + row[ROW]) * op.elements;
      if (at == t_new) {
        std::memcpy(to, row.y_new(), op.elements * sizeof(Real));
        continue;
      }
      const double theta = (at - t) / h;
      Terms<Real> terms;
      for (int j = 0; j < op.stages; ++j) {
        const double* p = op.dense + j * op.degree;
        double b = p[op.degree - 1];
        for (int d = op.degree - 2; d >= 0; --d) b = b * theta + p[d];
        if (p[0] != 0 || p[1] != 0) terms.add(static_cast<Real>(h * (b * theta)), row.k(j));
      }
      sum(to, row.y(), terms, op.elements);
    }
    std::memcpy(row.y(), row.y_new(), op.elements * sizeof(Real));
    std::memcpy(row.k(0), row.k(op.stages - 1), op.elements * sizeof(Real));
    advance(row, t_new);
  }
}

template <class Real>
void start_rows(const Integration& op, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const Row<Real> row{op, r};
    if (row[STATUS] != RUNNING) continue;
    const Real* slope = row.k(0);
    bool finite = true;
    for (int64_t e = 0; e < op.elements; ++e) finite &= std::isfinite(slope[e]);
    row[ERROR] = finite ? 1 : INF;
    row[ERROR_1] = row[ERROR_2] = 1;
    advance(row, row[TIME]);
    if (row[STATUS] == RUNNING && !finite) {
      row[STATUS] = NON_FINITE;
      row[STEP] = 0;
    }
  }
}

// Hairer, Norsett and Wanner 1993, section II.4.
template <class Real>
void probe_rows(const Integration& op, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const Row<Real> row{op, r};
    if (row[STATUS] != RUNNING) continue;
    const Real *y = row.y(), *slope = row.k(0);
    const double d0 = norm(row, [y](int64_t e) { return y[e]; }, y, y);
    const double d1 = norm(row, [slope](int64_t e) { return slope[e]; }, y, y);
    double h = d0 < 1e-5 || d1 < 1e-5 ? 1e-6 : 0.01 * d0 / d1;
    const double rest = row[END] - row[TIME];
    h = std::min(std::min(h, op.step_size.max_step), std::abs(rest));
    row[ERROR_1] = d1;
    row[PROPOSAL] = h;
    h = std::copysign(h, rest);
    row.time(row[TIME] + h);
    Terms<Real> terms;
    terms.add(static_cast<Real>(h), slope);
    sum(row.stage(), y, terms, op.elements);
  }
}

template <class Real>
void first_rows(const Integration& op, int64_t begin, int64_t end) {
  const StepSize& s = op.step_size;
  for (int64_t r = begin; r < end; ++r) {
    const Row<Real> row{op, r};
    if (row[STATUS] != RUNNING) continue;
    const Real *y = row.y(), *before = row.k(0), *after = row.k(1);
    const auto change = [=](int64_t e) { return after[e] - before[e]; };
    const double h0 = row[PROPOSAL], d1 = row[ERROR_1], d2 = norm(row, change, y, y) / h0;
    const double d = std::max(d1, d2);
    double h = d <= 1e-15 ? std::max(1e-6, h0 * 1e-3) : std::pow(0.01 / d, 1 / s.order);
    h = std::min(100 * h0, h);
    if (!std::isfinite(h)) h = h0;  // f(t + h0, ...) is not finite: the first step will tell
    row[PROPOSAL] = std::min(std::max(h, s.min_step), s.max_step);
  }
  start_rows<Real>(op, begin, end);
}

#define FASTGEN_BY_DTYPE(name)                                               \
  void name(const Integration& op, int64_t begin, int64_t end) {             \
    (op.float64 ? name##_rows<double> : name##_rows<float>)(op, begin, end); \
  }
FASTGEN_BY_DTYPE(control)
FASTGEN_BY_DTYPE(commit)
FASTGEN_BY_DTYPE(probe)
FASTGEN_BY_DTYPE(first)
FASTGEN_BY_DTYPE(start)
#undef FASTGEN_BY_DTYPE

void stage(const Integration& op, int i, int64_t begin, int64_t end) {
  (op.float64 ? stage_rows<double> : stage_rows<float>)(op, i, begin, end);
}

}  // namespace
}  // namespace fastgen
