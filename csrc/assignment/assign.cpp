#include "assignment/assign.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "assignment/matrix.h"
#include "assignment/memory.h"
#include "assignment/points.h"

namespace fastgen::assignment {
namespace {

// From this many columns on points are not made a matrix, and up to so many dimensions far ones
// are left out by boxes.
constexpr int64_t POINTS_FROM = 513, BOXED_DIMS = 8;
// Prices start from those of every SAMPLE_STEP-th row and column, from so many columns on.
constexpr int64_t SAMPLE_STEP = 4, SAMPLE_FROM = 512;
// More levels than this in a matrix (1 GiB) are not made for a refinement.
constexpr int64_t MOST_LEVELS = int64_t{1} << 28;
// First epsilon, of the range: from scratch, from a sample's or given prices, and a sample's last.
constexpr double COLD = 0.05, SAMPLED = 2e-3, SAMPLE_ENDS = 5e-4;
constexpr int MOST_ROUNDS = 4;
// No level differs from its cost by half as many levels. Of points in float32, in units in which
// the range is RANGE and no coordinate exceeds its root, a difference is within 3 2^-24 of that
// root, so that the square of one is within 56 levels.
constexpr int32_t MATRIX_SLACK = 70, POINTS_SLACK = 128;
// Levels are below RANGE by more than rounding.
constexpr double LEVELS = RANGE * 0.999;

using Prices = std::vector<int32_t>;

class Assignment {
 public:
  Assignment(const Problem& problem, const Options& options, Team& team, Control& control,
             int thread)
      : problem_(problem),
        options_(options),
        team_(team),
        control_(control),
        thread_(thread),
        kernels_(kernels()),
        rows_(problem.rows),
        columns_(problem.columns),
        stride_(padded(problem.columns)),
        total_(problem.copies ? std::accumulate(problem.copies, problem.copies + columns_,
                                                int64_t{0})
                              : columns_),
        overwritten_(problem.overwrite),
        match_(rows_),
        u_(rows_),
        matched_(rows_),
        v_(columns_),
        reduced_(team.size()) {
    std::iota(match_.begin(), match_.end(), 0);
    if (problem.copies) copies_.assign(problem.copies, problem.copies + columns_);
  }

  void run(Solution* solution) {
    if (problem_.form == Form::points)
      first_round_of_points();
    else
      first_round_of_matrix();
    for (int round = 1; round < MOST_ROUNDS && inexact() && refine(); ++round) {
    }
    write(solution);
  }

 private:
  void first_round_of_points();
  void first_round_of_matrix();
  bool refine();
  // Certified; by the solver's lists if `slack` bounds twice the rounding of a level.
  void solve(const Rows& rows, int64_t row_count, Prices* prices, double first, double scale,
             int32_t slack);
  template <class Sample>
  Prices sample_prices(const Sample& sample, const Chosen& chosen);
  bool warm(Prices* prices, double scale) const;
  int32_t* allocate_levels(bool extended);
  void certify(const Solver* solver = nullptr, int32_t slack = 0);
  void certify_levels(const Solver& solver, const Prices& prices);
  bool inexact() const;
  void write(Solution* solution) const;
  // Rows no longer than columns are made as many by rows of costs 0, if that is not much more.
  bool extend() const {
    return rows_ < total_ && 2 * rows_ > total_ && total_ * stride_ <= MOST_LEVELS / 4;
  }
  const float* floats(int64_t i) const {
    return static_cast<const float*>(problem_.matrix) + i * problem_.stride;
  }
  const double* doubles(int64_t i) const {
    return static_cast<const double*>(problem_.matrix) + i * problem_.stride;
  }
  // The row's costs in float64 (of points: centred, sorted), in place or in `scratch`.
  const double* costs(int64_t i, std::vector<double>& scratch) const;
  double cost(int64_t i, int64_t j) const;
  int32_t copies_of(int64_t j) const { return copies_.empty() ? 1 : copies_[j]; }

  template <class Function>
  void each_row(int64_t count, Function&& function) {
    const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 15) / stride_);
    team_.each(count, grain, [&](int64_t begin, int64_t end, int thread) {
      control_.poll(thread_ + thread);
      for (int64_t i = begin; i < end; ++i) function(i, thread);
    });
  }

  const Problem& problem_;
  const Options& options_;
  Team& team_;
  Control& control_;
  const int thread_;
  const Kernels& kernels_;
  const int64_t rows_, columns_, stride_, total_;
  const bool overwritten_;
  std::vector<int32_t> copies_;  // of each column; empty: one of each
  double range_ = 0;  // of the costs, or the greatest of those of rows
  std::unique_ptr<Clouds> clouds_;
  std::unique_ptr<ExactPoints> exact_;
  std::unique_ptr<int32_t[]> levels_;
  std::vector<double> low_;
  std::vector<int32_t> match_;
  // Dual variables and costs of pairs, as in the matrix or the centred clouds.
  std::vector<double> u_, matched_, v_;
  std::vector<std::vector<double>> reduced_;  // of each thread
  double cost_ = 0, gap_ = 0;
};

const double* Assignment::costs(int64_t i, std::vector<double>& scratch) const {
  if (problem_.form == Form::matrix && problem_.float64) return doubles(i);
  scratch.resize(columns_);
  if (problem_.form == Form::points)
    exact_->row(i, scratch.data());
  else
    std::copy_n(floats(i), columns_, scratch.begin());
  return scratch.data();
}

double Assignment::cost(int64_t i, int64_t j) const {
  if (problem_.form == Form::points) return clouds_->cost(i, j);
  return problem_.float64 ? doubles(i)[j] : floats(i)[j];
}

void Assignment::solve(const Rows& rows, int64_t row_count, Prices* prices, double first,
                       double scale, int32_t slack) {
  Solver solver(rows, row_count, columns_, copies_.empty() ? nullptr : copies_.data(), team_,
                control_, thread_);
  const double last = options_.epsilon * range_ * scale;
  const bool single_phase = row_count < total_;
  // Without as many rows, unassigned columns must keep the price that they start with.
  if (single_phase) std::fill(prices->begin(), prices->end(), 0);
  const int32_t end = std::max(1, static_cast<int32_t>(std::min(last, RANGE * 0.25)));
  solver.solve(*prices, single_phase ? end : static_cast<int32_t>(RANGE * first), end);
  std::copy_n(solver.matches().begin(), rows_, match_.begin());
  for (int64_t j = 0; j < columns_; ++j) v_[j] += (*prices)[j] / scale;
  if (row_count > rows_) {
    // The columns of the added rows, whose dual variables are left out, have the highest price: 0.
    const double highest = *std::max_element(v_.begin(), v_.end());
    for (double& price : v_) price -= highest;
  }
  if (overwritten_)
    certify_levels(solver, *prices);
  else
    certify(slack ? &solver : nullptr, slack);
}

bool Assignment::warm(Prices* prices, double scale) const {
  if (!options_.warm_prices || rows_ < total_) return false;
  std::vector<double> start(columns_);
  for (int64_t j = 0; j < columns_; ++j) {
    start[j] = options_.warm_prices[clouds_ ? clouds_->column_order()[j] : j];
    for (int64_t k = 0; clouds_ && k < clouds_->dims(); ++k)
      start[j] += 2 * clouds_->shift()[k] * clouds_->column(j)[k];
  }
  const double highest = *std::max_element(start.begin(), start.end());
  for (int64_t j = 0; j < columns_; ++j)
    (*prices)[j] = static_cast<int32_t>(std::max((start[j] - highest) * scale, -1.0 * RANGE));
  return true;
}

int32_t* Assignment::allocate_levels(bool extended) {
  const int64_t count = extended ? total_ : rows_;
  if (!levels_) {
    levels_.reset(new int32_t[count * stride_]);
    want_large_pages(levels_.get(), count * stride_ * sizeof(int32_t));
  }
  return levels_.get();
}

// Prices of the columns chosen, from those of a coarser sample of rows and columns: there
// v_j = min_i (c_ij - u_i) over the sample's rows. sample(chosen, last) gives the rows, `last` for
// those that are looked at once.
template <class Sample>
Prices Assignment::sample_prices(const Sample& sample, const Chosen& chosen) {
  const auto fine = sample(chosen, true);
  const int64_t stride = padded(fine.count());
  Prices prices(stride, INT_MAX);
  std::vector<Prices> scratch(team_.size());
  if (fine.count() < SAMPLE_FROM) {
    scratch[0].resize(stride);
    for (int64_t i = 0; i < fine.count(); ++i)
      kernels_.lower(fine.row(i, scratch[0].data()), 0, stride, prices.data());
    return prices;
  }
  const auto [fewer, places] = chosen.sample(SAMPLE_STEP);
  const auto coarse = sample(fewer, false);
  Prices coarse_prices = sample_prices(sample, fewer);
  Solver solver(coarse, coarse.count(), coarse.count(), nullptr, team_, control_, thread_);
  solver.solve(coarse_prices, static_cast<int32_t>(RANGE * COLD),
               static_cast<int32_t>(RANGE * SAMPLE_ENDS));
  std::vector<Prices> lowest(team_.size(), prices);
  each_row(coarse.count(), [&, &places = places](int64_t i, int thread) {
    Prices& costs = scratch[thread];
    costs.resize(std::max(stride, padded(coarse.count())));
    const int32_t offset = kernels_.best_two(coarse.row(i, costs.data()), coarse_prices.data(),
                                             padded(coarse.count())).first;
    kernels_.lower(fine.row(places[i], costs.data()), offset, stride, lowest[thread].data());
  });
  for (const Prices& part : lowest) kernels_.lower(part.data(), 0, stride, prices.data());
  return prices;
}

void Assignment::first_round_of_points() {
  clouds_ = std::make_unique<Clouds>(problem_.row_points, problem_.column_points,
                                     problem_.float64, rows_, columns_, problem_.dims,
                                     problem_.root, rows_ == total_);
  exact_ = std::make_unique<ExactPoints>(*clouds_);
  range_ = clouds_->range();
  if (range_ == 0) {
    certify();
  } else {
    const double scale = LEVELS / range_;
    const bool extended = extend(), dense = extended || columns_ < POINTS_FROM;
    for (int64_t j = 0; problem_.copies && j < columns_; ++j)
      copies_[j] = problem_.copies[clouds_->column_order()[j]];
    const Chosen all(columns_);
    const PointRows points(*clouds_, Chosen(rows_), all, scale,
                           !dense && problem_.dims <= BOXED_DIMS);
    Prices prices(stride_, INT_MAX);
    double first = COLD;
    if (dense) {
      int32_t* levels = allocate_levels(extended);
      for (int64_t i = 0; i < rows_; ++i) {
        points.row(i, levels + i * stride_);
        kernels_.lower(levels + i * stride_, 0, stride_, prices.data());
      }
      for (int64_t i = rows_; i < (extended ? total_ : rows_); ++i) {
        std::fill_n(levels + i * stride_, columns_, 0);
        std::fill_n(levels + i * stride_ + columns_, stride_ - columns_, PADDING_COST);
      }
      if (extended) std::fill(prices.begin(), prices.end(), 0);
      if (warm(&prices, scale)) first = SAMPLED;
      solve(MatrixRows(levels, stride_, points.lists_from()), extended ? total_ : rows_, &prices,
            first, scale, POINTS_SLACK * problem_.dims);
    } else {
      if (warm(&prices, scale)) {
        first = SAMPLED;
      } else if (rows_ == columns_ && copies_.empty()) {
        prices = sample_prices(
            [&](const Chosen& chosen, bool last) {
              return PointRows(*clouds_, chosen, chosen, scale,
                               !last && problem_.dims <= BOXED_DIMS);
            },
            all);
        first = SAMPLED;
      }
      solve(points, rows_, &prices, first, scale, POINTS_SLACK * problem_.dims);
    }
  }
}

void Assignment::first_round_of_matrix() {
  low_.resize(rows_);
  std::vector<double> high(rows_);
  each_row(rows_, [&](int64_t i, int) {
    bool finite;
    if (problem_.float64) {
      finite = kernels_.range_double(doubles(i), columns_, &low_[i], &high[i]);
    } else {
      float low, high_float;
      finite = kernels_.range_float(floats(i), columns_, &low, &high_float);
      low_[i] = low;
      high[i] = high_float;
    }
    if (!finite) throw std::domain_error("cost: expected finite numbers");
  });
  for (int64_t i = 0; i < rows_; ++i) range_ = std::max(range_, high[i] - low_[i]);
  const bool extended = !overwritten_ && extend();
  if (range_ > 0) {
    const double scale = LEVELS / range_;
    const float float_scale = static_cast<float>(scale);
    // Float32 would lose its range or its precision: as good as float64.
    const bool plain = !problem_.float64 && float_scale > 1e-30f && float_scale < 1e30f;
    int32_t* levels =
        overwritten_ ? static_cast<int32_t*>(problem_.matrix) : allocate_levels(extended);
    Prices prices(stride_, INT_MAX);
    std::vector<Prices> lowest(team_.size(), prices);
    each_row(rows_, [&](int64_t i, int thread) {
      int32_t* out = levels + i * stride_;
      if (plain)
        kernels_.quantise_float(floats(i), columns_, static_cast<float>(low_[i]), float_scale, out,
                                lowest[thread].data());
      else
        kernels_.quantise_double(costs(i, reduced_[thread]), v_.data(), columns_, low_[i], scale,
                                 out, lowest[thread].data());
      std::fill(out + columns_, out + stride_, PADDING_COST);
    });
    for (const Prices& part : lowest) kernels_.lower(part.data(), 0, stride_, prices.data());
    for (int64_t i = rows_; i < (extended ? total_ : rows_); ++i) {
      std::fill_n(levels + i * stride_, columns_, 0);
      std::fill_n(levels + i * stride_ + columns_, stride_ - columns_, PADDING_COST);
    }
    if (extended) std::fill(prices.begin(), prices.end(), 0);
    double first = COLD;
    if (warm(&prices, scale)) {
      first = SAMPLED;
    } else if (rows_ == columns_ && copies_.empty() && columns_ >= SAMPLE_FROM) {
      prices = sample_prices(
          [&](const Chosen& chosen, bool) {
            return MatrixSample(levels, stride_, chosen);
          },
          Chosen(columns_));
      first = SAMPLED;
    }
    solve(MatrixRows(levels, stride_), extended ? total_ : rows_, &prices, first, scale,
          MATRIX_SLACK);
  } else if (overwritten_) {
    for (int64_t i = 0; i < rows_; ++i) matched_[i] = u_[i] = low_[i];
    cost_ = std::accumulate(low_.begin(), low_.end(), 0.0);
  } else {
    certify();
  }
}

// Solves what is left of the costs when the prices are taken off, in finer levels. No pair whose
// reduced cost exceeds the gap is part of an optimal assignment: levels end there.
bool Assignment::refine() {
  const int64_t count = total_;
  if (overwritten_ || count * stride_ > MOST_LEVELS) return false;
  if (rows_ < total_ && levels_) levels_.reset();
  int32_t* levels = allocate_levels(true);
  const double scale = LEVELS / std::min(range_, gap_), gap = gap_;
  Prices prices(stride_, INT_MAX);
  std::vector<Prices> lowest(team_.size(), prices);
  const std::vector<double> zeros(columns_);
  each_row(count, [&](int64_t i, int thread) {
    int32_t* out = levels + i * stride_;
    const double* row = i < rows_ ? costs(i, reduced_[thread]) : zeros.data();
    kernels_.quantise_double(row, v_.data(), columns_, i < rows_ ? u_[i] : 0.0, scale, out,
                             lowest[thread].data());
    std::fill(out + columns_, out + stride_, PADDING_COST);
  });
  for (const Prices& part : lowest) kernels_.lower(part.data(), 0, stride_, prices.data());
  const std::vector<int32_t> match = match_;
  const std::vector<double> v = v_;
  solve(MatrixRows(levels, stride_), count, &prices, COLD, scale, 0);
  if (gap_ < gap) return true;
  match_ = match;
  v_ = v;
  certify();
  return false;
}

// Dual variables of rows are what makes those of columns feasible: u_i = min_j (c_ij - v_j).
void Assignment::certify(const Solver* solver, int32_t slack) {
  const bool in_float = problem_.form == Form::matrix && !problem_.float64;
  each_row(rows_, [&](int64_t i, int thread) {
    int32_t near[LIST];
    const int64_t count = solver ? solver->candidates(i, slack, near) : 0;
    matched_[i] = cost(i, match_[i]);
    if (count) {
      u_[i] = cost(i, near[0]) - v_[near[0]];
      for (int64_t k = 1; k < count; ++k)
        u_[i] = std::min(u_[i], cost(i, near[k]) - v_[near[k]]);
    } else if (in_float) {
      u_[i] = kernels_.lowest_float(floats(i), v_.data(), columns_);
    } else {
      u_[i] = kernels_.lowest_double(costs(i, reduced_[thread]), v_.data(), columns_);
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

// The same where only the levels are left, with their rounding on the safe side.
void Assignment::certify_levels(const Solver& solver, const Prices& prices) {
  const double scale = LEVELS / range_;
  const auto* levels = static_cast<const int32_t*>(problem_.matrix);
  std::vector<int32_t> lowest(rows_);
  each_row(rows_, [&](int64_t i, int) {
    const int32_t* row = levels + i * stride_;
    int32_t near[LIST];
    const int64_t count = solver.candidates(i, MATRIX_SLACK, near);
    lowest[i] = INT_MAX;
    for (int64_t k = 0; k < count; ++k) {
      const int32_t j = near[k];
      lowest[i] = std::min(lowest[i], row[j] - (row[j] >> ROUNDING) - prices[j] - 1);
    }
    if (!count) lowest[i] = kernels_.lowest_levels(row, prices.data(), stride_);
  });
  cost_ = gap_ = 0;
  for (int64_t i = 0; i < rows_; ++i) {
    const int64_t level = levels[i * stride_ + match_[i]];
    const int64_t above = level + (level >> ROUNDING) + 2;
    u_[i] = low_[i] + lowest[i] / scale;
    matched_[i] = low_[i] + level / scale;
    cost_ += matched_[i];
    gap_ += (above - prices[match_[i]] - lowest[i]) / scale;
  }
  if (rows_ == total_) return;
  for (int64_t j = 0; j < columns_; ++j) gap_ -= copies_of(j) * v_[j];
  for (const int32_t j : match_) gap_ += v_[j];
}

bool Assignment::inexact() const {
  return options_.epsilon == 0 && gap_ > options_.tolerance * std::abs(cost_) &&
         gap_ > 1e-15 * range_ * rows_;
}

void Assignment::write(Solution* solution) const {
  solution->cost = cost_;
  solution->gap = std::max(gap_, 0.0);
  if (!clouds_) {
    std::copy(match_.begin(), match_.end(), solution->match);
    std::copy(u_.begin(), u_.end(), solution->rows);
    std::copy(v_.begin(), v_.end(), solution->columns);
    return;
  }
  // Back to the given order and origin: |a - b + s|^2 = |a - b|^2 + (2 s.a + |s|^2) - 2 s.b.
  const std::vector<double>& shift = clouds_->shift();
  const auto along = [&](const double* x) {
    double sum = 0;
    for (size_t k = 0; k < shift.size(); ++k) sum += shift[k] * x[k];
    return sum;
  };
  const double square = along(shift.data());
  for (int64_t i = 0; i < rows_; ++i) {
    const int64_t at = clouds_->row_order()[i];
    solution->match[at] = clouds_->column_order()[match_[i]];
    solution->rows[at] = u_[i] + 2 * along(clouds_->row(i)) + square;
    solution->cost += 2 * (along(clouds_->row(i)) - along(clouds_->column(match_[i]))) + square;
  }
  for (int64_t j = 0; j < columns_; ++j)
    solution->columns[clouds_->column_order()[j]] = v_[j] - 2 * along(clouds_->column(j));
}

}  // namespace

void assign_as_given(const Problem& problem, const Options& options, Team& team, Control& control,
                     int thread, Solution* solution) {
  Assignment(problem, options, team, control, thread).run(solution);
}

}  // namespace fastgen::assignment
