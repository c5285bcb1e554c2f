// Internal linkage: each instruction set has its own.
#pragma once
#include <algorithm>
#include <cmath>

#include "common/power.h"
#include "runge_kutta/outputs.h"
#include "runge_kutta/rows.h"
#include "runge_kutta/small.h"

namespace fastgen {
namespace {

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
void control_rows(const Integration& op, int64_t begin, int64_t end) {
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
  Due<Real, 0> due(op);
  for (int64_t r = begin; r < end; ++r) {
    const Row<Real> row{op, r};
    if (row[STATUS] != RUNNING) continue;
    due.pass(r, r + 1);
    move(row);
  }
}

template <class Real>
void take_rows(const Integration& op, int i, const void* slope, int64_t begin, int64_t end) {
  const int64_t from = begin * op.elements;
  Real* k = static_cast<Real*>(op.k) + i * op.capacity * op.elements;
  std::memcpy(k + from, static_cast<const Real*>(slope) + from,
              (end - begin) * op.elements * sizeof(Real));
  if (i < op.stages - 1) return stage_rows<Real>(op, i + 1, begin, end);
  control_rows<Real>(op, begin, end);
  commit_rows<Real>(op, begin, end);
  stage_rows<Real>(op, 1, begin, end);
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
FASTGEN_BY_DTYPE(probe)
FASTGEN_BY_DTYPE(first)
FASTGEN_BY_DTYPE(start)
#undef FASTGEN_BY_DTYPE

// What the kernels are for rows of some length.
template <class Real>
struct LongRows {
  static constexpr auto stage = stage_rows<Real>;
  static constexpr auto control = control_rows<Real>, commit = commit_rows<Real>;
  static constexpr auto take = take_rows<Real>;
};

// work(kernels) with those for the rows of an integration.
template <class Real, class Work>
FASTGEN_INLINE void with_rows(const Integration& op, const Work& work) {
  static_assert(SMALL == 8);
  switch (op.elements) {
    case 1: return work(SmallRows<Real, 1>());
    case 2: return work(SmallRows<Real, 2>());
    case 3: return work(SmallRows<Real, 3>());
    case 4: return work(SmallRows<Real, 4>());
    case 5: return work(SmallRows<Real, 5>());
    case 6: return work(SmallRows<Real, 6>());
    case 7: return work(SmallRows<Real, 7>());
    default: return work(LongRows<Real>());
  }
}
template <class Work>
FASTGEN_INLINE void by_rows(const Integration& op, const Work& work) {
  op.float64 ? with_rows<double>(op, work) : with_rows<float>(op, work);
}

void stage(const Integration& op, int i, int64_t begin, int64_t end) {
  by_rows(op, [&](auto rows) { rows.stage(op, i, begin, end); });
}
void control(const Integration& op, int64_t begin, int64_t end) {
  by_rows(op, [&](auto rows) { rows.control(op, begin, end); });
}
void commit(const Integration& op, int64_t begin, int64_t end) {
  by_rows(op, [&](auto rows) { rows.commit(op, begin, end); });
}
void take(const Integration& op, int i, const void* slope, int64_t begin, int64_t end) {
  by_rows(op, [&](auto rows) { rows.take(op, i, slope, begin, end); });
}

}  // namespace
}  // namespace fastgen
