#include "assignment/operation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>

#include "assignment/matrix.h"
#include "assignment/rounds.h"
#include "assignment/sample.h"

namespace fastgen::assignment {
namespace {

// From this many columns on points are not made a matrix, and up to so many dimensions far ones
// are left out by boxes.
constexpr int64_t POINTS_FROM = 513, BOXED_DIMS = 8;
// Rows are added up to so many costs at first, 256 MiB, and for a refinement.
constexpr int64_t MOST_EXTENDED = int64_t{1} << 26, MOST_REFINED = int64_t{1} << 28;
constexpr int MOST_ROUNDS = 6;
// Of a refinement, over the gap: no pair whose reduced cost exceeds the gap is part of an optimal
// assignment, but bids need a second best. Most are far below it: less is tried where lists do not
// tell, down to LEAST_RANGE.
constexpr double FINE_RANGE = 64, LEAST_RANGE = 1.0 / 64;
// No level differs from its cost by half as many levels. Of points in float32, in units in which
// the range is RANGE and no coordinate exceeds its root, a difference is within 3 2^-24 of that
// root, so that the square of one is within 56 levels.
constexpr int32_t MATRIX_SLACK = 70, POINTS_SLACK = 128;

bool lowest_and_highest(const Kernels& kernels, const float* row, int64_t columns, float* low,
                        float* high) {
  return kernels.range_float(row, columns, low, high);
}
bool lowest_and_highest(const Kernels& kernels, const double* row, int64_t columns, double* low,
                        double* high) {
  return kernels.range_double(row, columns, low, high);
}

}  // namespace

double Assignment::run(Solution* solution) {
  if (problem_.form == Form::points)
    first_round_of_points();
  else if (problem_.float64)
    first_round_of_matrix<double>();
  else
    first_round_of_matrix<float>();
  for (int round = 1; round < MOST_ROUNDS && inexact() && refine(); ++round) {
  }
  write(solution);
  return size();
}

// Rows no longer than columns are made as many by rows of costs 0, if that is not much more.
bool Assignment::extend() const {
  return rows_ < total_ && 2 * rows_ > total_ && total_ * stride_ <= MOST_EXTENDED;
}

// min_j (c_ij - v_j) over all columns.
double Assignment::lowest_reduced(int64_t i, int thread) {
  if (problem_.form == Form::points) {
    std::vector<double>& costs = costs_[thread];
    costs.resize(columns_);
    exact_->row(i, costs.data());
    return kernels_.lowest_double(costs.data(), v_.data(), columns_);
  }
  return problem_.float64 ? kernels_.lowest_double(given<double>(i), v_.data(), columns_)
                          : kernels_.lowest_float(given(i), v_.data(), columns_);
}

double Assignment::cost(int64_t i, int64_t j) const {
  if (problem_.form == Form::points) return clouds_->cost(i, j);
  return problem_.float64 ? given<double>(i)[j] : given(i)[j];
}

void Assignment::solve(const Rows& rows, int64_t row_count, Prices prices, double first,
                       double scale, int32_t slack) {
  Solver solver(rows, row_count, columns_, copies_.empty() ? nullptr : copies_.data(), team_,
                control_, thread_);
  const double last = options_.epsilon * range_ * scale;
  const bool single_phase = row_count < total_;
  // Without as many rows, unassigned columns must keep the price that they start with.
  if (single_phase) prices.assign(stride_, 0);
  const int32_t end = std::max(1, static_cast<int32_t>(std::min(last, RANGE * 0.25)));
  solver.solve(prices, single_phase ? end : static_cast<int32_t>(RANGE * first), end);
  std::copy_n(solver.matches().begin(), rows_, match_.begin());
  for (int64_t j = 0; j < columns_; ++j) v_[j] += prices[j] / scale;
  if (row_count > rows_) {
    // The columns of the added rows, whose dual variables are left out, have the highest price: 0.
    const double highest = *std::max_element(v_.begin(), v_.end());
    for (double& price : v_) price -= highest;
  }
  certify(slack ? &solver : nullptr, slack);
  if (clouds_ && rows_ == total_ && slack && inexact()) find_candidates(solver, scale, slack);
}

// What a refinement looks at, and how far it goes: less far where lists don't tell or that would be
// many columns. Otherwise all columns, all rows kept.
void Assignment::find_candidates(Solver& solver, double scale, int32_t slack) {
  for (double range = FINE_RANGE; range >= LEAST_RANGE; range /= 4) {
    const double farthest = range * gap_ * scale + slack;
    if (!(farthest < RANGE / 4)) continue;
    fine_range_ = range;
    candidates_.columns.resize(rows_ * MOST_LISTED);
    candidates_.counts.resize(rows_);
    each_row(rows_, [&](int64_t i, int thread) {
      candidates_.counts[i] = solver.candidates(i, static_cast<int32_t>(farthest) + 1, thread,
                                                &candidates_.columns[i * MOST_LISTED]);
    });
    int64_t unknown = 0, known = 0;
    for (const int64_t count : candidates_.counts) {
      unknown += count == 0;
      known += count;
    }
    if (64 * unknown < rows_ && 8 * known < MOST_LISTED * rows_) return;
    if (range <= 1 && 4 * unknown < rows_) return;
  }
  candidates_ = {};
  fine_range_ = 1;
}

void Assignment::first_round_of_points() {
  clouds_ =
      std::make_unique<Clouds>(problem_.row_points, problem_.column_points, problem_.float64, rows_,
                               columns_, problem_.dims, problem_.root, rows_ == total_);
  exact_ = std::make_unique<ExactPoints>(*clouds_);
  range_ = clouds_->range();
  if (clouds_->squares() == 0 && clouds_->extent() == 0) return certify();
  if (!has_levels(clouds_->squares())) throw std::overflow_error("points");
  if (far_points_first()) return;
  const double scale = LEVELS / range_;
  for (int64_t j = 0; problem_.copies && j < columns_; ++j)
    copies_[j] = problem_.copies[clouds_->column_order()[j]];
  const bool boxed = !extend() && columns_ >= POINTS_FROM && problem_.dims <= BOXED_DIMS;
  PointRows points(*clouds_, scale, boxed);
  double first;
  const Prices prices = first_prices(points, scale, &first);
  solve(points, extend() ? total_ : rows_, prices, first, scale, POINTS_SLACK * problem_.dims);
}

template <class T>
void Assignment::first_round_of_matrix() {
  low_.resize(rows_);
  std::vector<double> high(rows_);
  // What a sample has is picked on the same way through the matrix.
  const std::vector<int64_t> places = sampled() ? sample_places(columns_) : std::vector<int64_t>();
  const int64_t count = places.size();
  std::vector<T> picked(count * count);
  each_row(rows_, [&](int64_t i, int) {
    const T* row = given<T>(i);
    T low, most;
    if (!lowest_and_highest(kernels_, row, columns_, &low, &most))
      throw std::domain_error("cost: expected finite numbers");
    low_[i] = low;
    high[i] = most;
    if (const int64_t k = i / SAMPLE_STEP; k < count && places[k] == i)
      pick(row, places, &picked[k * count]);
  });
  for (int64_t i = 0; i < rows_; ++i) range_ = std::max(range_, high[i] - low_[i]);
  if (range_ == 0) return certify();
  given_up_ = !has_levels(range_);
  if (given_up_) return;
  const double scale = LEVELS / range_;
  const bool direct = scale > 1e-30 && scale < 1e30;
  MatrixRows<T> rows(given<T>(), rows_, columns_, low_.data(), v_.data(), scale, direct);
  rows.have_sample(std::move(picked));
  double first;
  const Prices prices = first_prices(rows, scale, &first);
  solve(rows, extend() ? total_ : rows_, prices, first, scale, MATRIX_SLACK);
}

// Solves what is left of the costs when the prices are taken off, in finer levels, which end at
// some times the gap, or at a part of it: if that was too little, the next round goes on from here.
bool Assignment::refine() {
  if (rows_ < total_ && total_ * stride_ > MOST_REFINED) return false;
  const double reach = fine_range_, gap = gap_;
  const double scale = LEVELS / std::min(range_, reach * gap);
  const Candidates candidates = std::move(candidates_);
  const std::vector<int32_t> match = match_;
  const std::vector<double> u = u_, v = v_;
  const auto solve_rows = [&](const Rows& rows) {
    const int32_t slack = candidates.counts.empty() ? 0 : fine_slack(scale);
    solve(rows, total_, slack ? Prices(stride_) : Prices(), slack ? SAMPLED : COLD, scale, slack);
  };
  if (problem_.form == Form::points)
    solve_rows(FinePointRows(*exact_, *clouds_, u.data(), v.data(), scale, candidates));
  else if (problem_.float64)
    solve_rows(MatrixRows(given<double>(), rows_, columns_, u.data(), v.data(), scale, false));
  else
    solve_rows(MatrixRows(given(), rows_, columns_, u.data(), v.data(), scale, false));
  if (gap_ < gap) return true;
  match_ = match;
  v_ = v;
  certify();
  candidates_ = {};
  fine_range_ = 1;
  return reach < 1;
}

// Twice what rounding in float64 of costs less prices does to a level, or 0 if that is much.
int32_t Assignment::fine_slack(double scale) const {
  const double slack = 2 + 64 * std::numeric_limits<double>::epsilon() * range_ * scale;
  return slack < RANGE / 8 ? static_cast<int32_t>(slack) : 0;
}

// Dual variables of rows are what makes those of columns feasible: u_i = min_j (c_ij - v_j).
void Assignment::certify(Solver* solver, int32_t slack) {
  each_row(rows_, [&](int64_t i, int thread) {
    int32_t near[MOST_LISTED];
    const int64_t count = solver ? solver->candidates(i, slack, thread, near) : 0;
    matched_[i] = cost(i, match_[i]);
    if (count) {
      u_[i] = cost(i, near[0]) - v_[near[0]];
      for (int64_t k = 1; k < count; ++k) u_[i] = std::min(u_[i], cost(i, near[k]) - v_[near[k]]);
    } else {
      u_[i] = lowest_reduced(i, thread);
    }
  });
  cost_ = gap_ = 0;
  for (int64_t i = 0; i < rows_; ++i) {
    cost_ += matched_[i];
    gap_ += (matched_[i] - v_[match_[i]]) - u_[i];
  }
  if (rows_ == total_) return;
  // Prices of unassigned columns are not above zero.
  for (int64_t j = 0; j < columns_; ++j) gap_ -= copies_of(j) * v_[j];
  for (const int32_t j : match_) gap_ += v_[j];
}

// Where some pairs cost far more than the others, the gap must be small next to the others.
bool Assignment::inexact() const {
  if (options_.epsilon > 0 || gap_ <= 1e-16 * range_ * rows_) return false;
  const double of_others = size(), cost = std::abs(cost_ + options_.left_out);
  return gap_ > options_.tolerance * std::max(cost, of_others) ||
         !settled(gap_, of_others, options_);
}

// Of the costs of which the gap must be a small part.
double Assignment::size() const {
  if (clouds_) {
    std::vector<int64_t> match(rows_);
    for (int64_t i = 0; i < rows_; ++i)
      match[clouds_->row_order()[i]] = clouds_->column_order()[match_[i]];
    return size_of(problem_, match.data());
  }
  // Without constants of rows single costs tell nothing.
  if (options_.left_out) return std::abs(cost_ + options_.left_out);
  std::vector<double> pairs = matched_;
  return size_of(pairs.data(), rows_);
}

void Assignment::write(Solution* solution) const {
  solution->cost = cost_;
  solution->gap = std::numeric_limits<double>::infinity();
  if (given_up_) return;
  solution->gap =
      certified_gap({rows_, columns_, matched_.data(), u_.data(), v_.data(), match_.data(),
                     copies_.empty() ? nullptr : copies_.data(), rows_ == total_, cost_});
  if (!clouds_) {
    std::copy(match_.begin(), match_.end(), solution->match);
    std::copy(u_.begin(), u_.end(), solution->rows);
    std::copy(v_.begin(), v_.end(), solution->columns);
    return;
  }
  clouds_->write(match_, u_, v_, solution);
  solution->gap += clouds_->rounding(solution->cost, cost_);
}

void assign_as_given(const Problem& problem, const Options& options, Team& team, Control& control,
                     int thread, Solution* solution) {
  const double size = Assignment(problem, options, team, control, thread).run(solution);
  if (!settled(solution->gap, size, options)) settle(problem, control, thread, solution);
}

}  // namespace fastgen::assignment
