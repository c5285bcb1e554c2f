// Internal linkage: each instruction set has its own.
#pragma once
#include <algorithm>
#include <cmath>

#include "common/power.h"
#include "runge_kutta/rows.h"

namespace fastgen {
namespace {

template <class Real>
void small_stage(const Integration& op, int i, int64_t begin, int64_t end) {
  Real total[SIDE * SMALL];
  for (; begin < end; begin += SIDE) {
    const Side<Real> side(op, begin, end);
    const Real* y = side.of(op.y);
    std::copy_n(y, side.size, total);
    side.add(total, op.a + i * op.stages, i);
    for (int64_t e = 0; e < side.size; ++e) total[e] = side.h[e] == 0 ? y[e] : total[e];
    for (int64_t r = begin; r < begin + side.rows; ++r)
      Row<Real>{op, r}.time(op.at(TIME, r) + op.c[i] * op.at(STEP, r));
    std::copy_n(total, side.size, side.of(op.stage));
    if (i == op.stages - 1) std::copy_n(total, side.size, side.of(op.y_new));
  }
}

template <class Real>
void stage_rows(const Integration& op, int i, int64_t begin, int64_t end) {
  if (op.elements < SMALL) return small_stage<Real>(op, i, begin, end);
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

// By how much the next step is longer, before its bounds, from the last three errors.
inline double growth(const StepSize& s, double error, double before, double earlier) {
  double factor = s.safety * power(std::max(error, LEAST_ERROR), -s.beta[0]);
  if (s.beta[1] != 0) factor = factor * power(before, -s.beta[1]);
  if (s.beta[2] != 0) factor = factor * power(earlier, -s.beta[2]);
  return factor;
}

// Whether a row whose error's norm is known takes its step, and the size of its next one.
template <class Real>
void decide(const Row<Real>& row, double error, double factor) {
  const StepSize& s = row.op.step_size;
  const double size = std::abs(row[STEP]);
  const bool finite = std::isfinite(error);
  const bool taken = finite && (error <= 1 || size <= s.min_step);
  row[TAKEN] = taken;
  row[ERROR] = error;
  if (finite) {
    // A row that was just rejected does not grow; one that is rejected shrinks.
    const double ceiling = taken ? (row[PROPOSAL] < 0 ? 1.0 : s.max_factor) : s.safety;
    factor = std::min(std::max(factor, s.min_factor), ceiling);
    if (taken) {
      row[ERROR_2] = row[ERROR_1];
      row[ERROR_1] = std::max(error, LEAST_ERROR);
    }
  } else {
    factor = s.min_factor;
  }
  const double next = std::min(std::max(size * factor, s.min_step), s.max_step);
  row[taken ? ACCEPTED : REJECTED] += 1;
  row[PROPOSAL] = taken ? next : -next;
}

template <class Real>
void small_control(const Integration& op, int64_t begin, int64_t end) {
  Real errors[SIDE * SMALL], rtol[SIDE * SMALL], atol[SIDE * SMALL];
  double squares[SIDE * SMALL], found[SIDE], factor[SIDE], before[SIDE], earlier[SIDE];
  for (; begin < end; begin += SIDE) {
    const Side<Real> side(op, begin, end);
    const Real *y = side.of(op.y), *z = side.of(op.y_new);
    std::fill_n(errors, side.size, Real(0));
    side.add(errors, op.error, op.stages);
    for (int64_t r = 0, i = 0; r < side.rows; ++r)
      for (int64_t e = 0; e < op.elements; ++e, ++i) {
        rtol[i] = static_cast<Real>(op.at(RTOL, begin + r));
        atol[i] = static_cast<Real>(op.at(ATOL, begin + r));
      }
    for (int64_t i = 0; i < side.size; ++i) {
      const Real size = std::abs(y[i]), after = std::abs(z[i]);
      const Real scale = atol[i] + rtol[i] * (size > after ? size : after);
      const Real ratio = errors[i] == Real(0) ? Real(0) : errors[i] / scale;
      squares[i] = static_cast<double>(ratio) * static_cast<double>(ratio);
    }
    side.norms(found, squares);
    const int64_t rounded = (side.rows + 7) / 8 * 8;  // whole vectors, the rest of which is unused
    for (int64_t r = 0; r < rounded; ++r) {
      const int64_t row = begin + std::min(r, side.rows - 1);
      before[r] = op.at(ERROR_1, row);
      earlier[r] = op.at(ERROR_2, row);
    }
    std::fill(found + side.rows, found + rounded, 1.0);
    const StepSize s = op.step_size;
    for (int64_t r = 0; r < rounded; ++r)
      factor[r] = s.safety * power(std::max(found[r], LEAST_ERROR), -s.beta[0]);
    if (s.beta[1] != 0)
      for (int64_t r = 0; r < rounded; ++r) factor[r] = factor[r] * power(before[r], -s.beta[1]);
    if (s.beta[2] != 0)
      for (int64_t r = 0; r < rounded; ++r) factor[r] = factor[r] * power(earlier[r], -s.beta[2]);
    for (int64_t r = 0; r < side.rows; ++r) {
      const Row<Real> row{op, begin + r};
      row[TAKEN] = 0;
      if (row[STATUS] == RUNNING) decide(row, found[r], factor[r]);
    }
  }
}

template <class Real>
void control_rows(const Integration& op, int64_t begin, int64_t end) {
  if (op.elements < SMALL) return small_control<Real>(op, begin, end);
  for (int64_t r = begin; r < end; ++r) {
    const Row<Real> row{op, r};
    row[TAKEN] = 0;
    if (row[STATUS] != RUNNING) continue;
    const double h = row[STEP];
    Terms<Real> terms;
    for (int j = 0; j < op.stages; ++j)
      if (op.error[j] != 0) terms.add(static_cast<Real>(h * op.error[j]), row.k(j));
    // The stage input has been read by now: it takes the error.
    Real* errors = row.stage();
    sum(errors, static_cast<const Real*>(nullptr), terms, op.elements);
    const auto each = [errors](int64_t e) { return errors[e]; };
    const double error = norm(row, each, row.y(), row.y_new());
    decide(row, error, growth(op.step_size, error, row[ERROR_1], row[ERROR_2]));
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

// The end of an accepted row's step.
template <class Real>
double arrival(const Row<Real>& row) {
  const double t = row[TIME], h = row[STEP];
  return h == row[END] - t ? row[END] : t + h;
}

// The new state of a row that has left its outputs; its next step.
template <class Real>
void move(const Row<Real>& row) {
  if (!row[TAKEN]) return advance(row, row[TIME]);
  const double t_new = arrival(row);
  copy(row.y(), row.y_new(), row.op.elements);
  copy(row.k(0), row.k(row.op.stages - 1), row.op.elements);
  advance(row, t_new);
}

template <class Real>
void commit_rows(const Integration& op, int64_t begin, int64_t end) {
  const Dense dense(op);
  Due<Real> due(op, dense);
  const int64_t together = op.elements < SMALL ? SIDE : 1;
  for (int64_t first = begin; first < end; first += together) {
    const int64_t last = std::min(first + together, end);
    for (int64_t r = first; r < last; ++r) {
      const Row<Real> row{op, r};
      if (row[STATUS] != RUNNING || !row[TAKEN]) continue;
      const double t = row[TIME], h = row[STEP], t_new = arrival(row);
      const double* times = op.output_times + row[ROW] * op.output_stride;
      int64_t& cursor = row[CURSOR];
      for (; cursor < op.outputs; ++cursor) {
        const double at = times[cursor];
        if (h > 0 ? at > t_new : at < t_new) break;
        Real* to = static_cast<Real*>(op.ys) + (cursor * op.capacity + row[ROW]) * op.elements;
        if (at == t_new)
          copy(to, row.y_new(), op.elements);
        else
          due.add(to, r, (at - t) / h, h);
      }
    }
    due.flush();
    for (int64_t r = first; r < last; ++r)
      if (const Row<Real> row{op, r}; row[STATUS] == RUNNING) move(row);
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
    double h = d <= 1e-15 ? std::max(1e-6, h0 * 1e-3) : power(0.01 / d, 1 / s.order);
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
