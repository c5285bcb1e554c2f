// Outputs that rows have passed, read off from the interpolant. Internal linkage: each instruction
// set has its own.
#pragma once
#include <algorithm>

#include "runge_kutta/packs.h"
#include "runge_kutta/rows.h"

namespace fastgen {
namespace {

// Outputs of several rows, of N elements or, for N = 0, of as many as they have. What depends on an
// output alone is computed in vectors over the outputs of all these rows.
template <class Real, int N>
class Due {
  using Numbers = Pack<double, GROUP>;
  using Whole = Pack<int64_t, GROUP>;
  using Reals = Pack<Real, GROUP>;
  // The polynomials b_j of the interpolant that are not zero, and the slopes k_j of all rows.
  struct Polynomials {
    const double* p[MAX_STAGES];
    const Real* k[MAX_STAGES];
    int count = 0;
  };
  // Outputs of one row, at most GROUP of them, from the first to that of the next run.
  struct Run {
    int64_t row, first;
  };

 public:
  // The most rows in one call of `pass`.
  static constexpr int64_t ROWS = N > 0 ? SIDE : 1;
  // Outputs before they are written, and room for a vector's garbage behind them.
  static constexpr int64_t MOST = SIDE + 2 * GROUP;

  explicit Due(const Integration& op) : op_(op), stride_(op.capacity * elements()) {
    int64_t ahead[GROUP];
    for (int l = 0; l < GROUP; ++l) ahead[l] = l * stride_;
    ahead_ = load<Whole>(ahead);
  }

  // Takes note of the outputs in (t, t + h] of the rows that take their step.
  void pass(int64_t begin, int64_t end) {
    const Integration op = op_;  // no store below can change these numbers
    const int64_t stride = stride_, outputs = op.outputs;
    int64_t runs = 0, count = 0;
    for (int64_t r = begin; r < end; ++r) {
      const Row<Real> row{op, r};
      if (row[STATUS] != RUNNING || !row[TAKEN]) continue;
      const double t = row[TIME], h = row[STEP], sign = h > 0 ? 1 : -1, last = sign * arrival(row);
      const double* times = times_of(row);
      const int64_t to = row[ROW] * elements(), before = row[CURSOR];
      int64_t cursor = before;
      // How many they are is counted: a branch for each would be foreseen by no processor.
      int found = GROUP;
      for (; found == GROUP && cursor + GROUP <= outputs; cursor += found) {
        if (count > SIDE) runs = count = flush(runs, count);
        const Numbers at = load<Numbers>(times + cursor);
        store(since_ + count, at - t);
        store(h_ + count, Numbers{} + h);
        store(to_ + count, ahead_ + (cursor * stride + to));
        runs_[runs] = {r, count};
        found = __builtin_popcount(bits_of(sign * at <= Numbers{} + last));
        runs += found > 0;
        count += found;
      }
      if (found == GROUP)
        for (; cursor < outputs && sign * times[cursor] <= last; ++cursor) {
          if (count > SIDE) runs = count = flush(runs, count);
          since_[count] = times[cursor] - t;
          h_[count] = h;
          to_[count] = cursor * stride + to;
          runs_[runs++] = {r, count++};
        }
      if (cursor == before) continue;
      row[CURSOR] = cursor;
      if (sign * times[cursor - 1] == last) at_end_[at_ends_++] = r;
    }
    flush(runs, count);
    finish();
  }

 private:
  // Outputs at a step's very end are the new state.
  void finish() {
    for (; at_ends_; --at_ends_) {
      const Row<Real> row{op_, at_end_[at_ends_ - 1]};
      const double* times = times_of(row);
      const int64_t cursor = row[CURSOR];
      for (int64_t i = cursor; i > 0 && times[i - 1] == times[cursor - 1]; --i)
        copy(ys() + (i - 1) * stride_ + row[ROW] * elements(), row.y_new(), elements());
    }
  }

  int64_t elements() const { return N > 0 ? N : op_.elements; }
  Real* ys() const { return static_cast<Real*>(op_.ys); }
  const double* times_of(const Row<Real>& row) const {
    return op_.output_times + row[ROW] * op_.output_stride;
  }

  // y + sum_j h b_j(theta) k_j, theta = (at - t) / h, of each of the first ones. Returns 0: how
  // many are left.
  __attribute__((noinline)) int64_t flush(int64_t runs, int64_t count) {
    if (count == 0) return 0;
    // Rows pass outputs at other times than each other: what is written next is in no cache.
    for (int64_t i = 0; i < count; ++i) __builtin_prefetch(ys() + to_[i], 1);
    const int64_t rounded = (count + GROUP - 1) / GROUP * GROUP;  // whole vectors
    std::fill(since_ + count, since_ + rounded, 0.0);
    std::fill(h_ + count, h_ + rounded, 1.0);
    Polynomials read;
    for (int j = 0; j < op_.stages; ++j)
      if (const double* p = op_.dense + j * op_.degree; p[0] != 0 || p[1] != 0) {
        read.p[read.count] = p;
        read.k[read.count++] = Row<Real>{op_, 0}.k(j);
      }
    switch (op_.degree) {
      case 3: weigh<3>(read, rounded); break;
      case 4: weigh<4>(read, rounded); break;
      case 5: weigh<5>(read, rounded); break;
      default: weigh<0>(read, rounded);
    }
    runs_[runs] = {0, count};
    for (int64_t i = 0; i < runs; ++i) read_off(runs_[i], runs_[i + 1].first, read);
    if constexpr (N > 0)
      for (int64_t i = 0; i < count; ++i) {
        Real* to = ys() + to_[i];
        for (int e = 0; e < N; ++e) to[e] = found_[e][i];
      }
    return 0;
  }

  // The weights h b_j(theta) of each.
  template <int DEGREE>
  void weigh(const Polynomials& read, int64_t count) {
    const int degree = DEGREE > 0 ? DEGREE : op_.degree;
    for (int64_t i = 0; i < count; i += GROUP) {
      const Numbers h = load<Numbers>(h_ + i), theta = load<Numbers>(since_ + i) / h;
      for (int j = 0; j < read.count; ++j) {
        const double* p = read.p[j];
        Numbers b = Numbers{} + p[degree - 1];
        for (int d = degree - 2; d >= 0; --d) b = b * theta + p[d];
        store(weight_[j] + i, converted<Reals>(h * (b * theta)));
      }
    }
  }

  // The sums of a run. Those of few elements lie packed in `found_`, the next run's over what is
  // behind its end.
  void read_off(const Run& run, int64_t end, const Polynomials& read) {
    const int64_t from = run.row * elements();
    const Real* y = static_cast<const Real*>(op_.y) + from;
    if constexpr (N > 0) {
      Reals total[N];
      for (int e = 0; e < N; ++e) total[e] = y[e] - Reals{};
      for (int j = 0; j < read.count; ++j) {
        const Reals w = load<Reals>(weight_[j] + run.first);
        const Real* k = read.k[j] + from;
        for (int e = 0; e < N; ++e) total[e] = total[e] + w * k[e];
      }
      for (int e = 0; e < N; ++e) store(found_[e] + run.first, total[e]);
    } else {
      for (int64_t i = run.first; i < end; ++i) {
        Terms<Real> sums;
        for (int j = 0; j < read.count; ++j) sums.add(weight_[j][i], read.k[j] + from);
        sum(ys() + to_[i], y, sums, op_.elements);
      }
    }
  }

  const Integration& op_;
  const int64_t stride_;  // from an output to the next one of a row
  Whole ahead_;
  int64_t at_ends_ = 0;
  int64_t to_[MOST], at_end_[ROWS];
  Run runs_[MOST + 1];
  double since_[MOST], h_[MOST];
  Real weight_[MAX_STAGES][MOST], found_[N > 0 ? N : 1][MOST];
};

}  // namespace
}  // namespace fastgen
