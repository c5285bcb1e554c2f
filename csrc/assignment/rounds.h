// One problem on its way from costs to a certified solution, in rounds of levels: the first of the
// costs, each later one of what the prices so far leave of them, in finer levels.
#pragma once
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "assignment/certificate.h"
#include "assignment/operation.h"
#include "assignment/points.h"
#include "assignment/solver.h"

namespace fastgen::assignment {

// First epsilon, of the range: from scratch, and from a sample's or given prices.
constexpr double COLD = 0.05, SAMPLED = 2e-3;
// Levels are below RANGE by more than rounding.
constexpr double LEVELS = RANGE * 0.999;
// Between these, ranges have levels, and sums of costs fit.
inline bool has_levels(double range) { return range > 1e-290 && range < 1e290; }

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
        kernels_(kernels<Kernels>()),
        rows_(problem.rows),
        columns_(problem.columns),
        stride_(padded(problem.columns)),
        total_(problem.copies
                   ? std::accumulate(problem.copies, problem.copies + columns_, int64_t{0})
                   : columns_),
        match_(rows_),
        u_(rows_),
        matched_(rows_),
        v_(columns_),
        costs_(team.size()) {
    std::iota(match_.begin(), match_.end(), 0);
    if (problem.copies) copies_.assign(problem.copies, problem.copies + columns_);
  }

  // The size of the costs of which the gap must be a small part.
  double run(Solution* solution);

 private:
  void first_round_of_points();
  bool far_points_first();
  void extend_prices(const std::vector<int64_t>& rows, const std::vector<int64_t>& columns);
  template <class T>
  void first_round_of_matrix();
  bool refine();
  // Certified; by the solver's lists if `slack` bounds twice the rounding of a level.
  void solve(const Rows& rows, int64_t row_count, Prices prices, double first, double scale,
             int32_t slack);
  template <class Sampled>
  Prices sample_prices(Sampled& fine);
  template <class Sampled>
  Prices first_prices(Sampled& rows, double scale, double* first);
  Prices warm_prices(double scale) const;
  void certify(Solver* solver = nullptr, int32_t slack = 0);
  void find_candidates(Solver& solver, double scale, int32_t slack);
  int32_t fine_slack(double scale) const;
  bool inexact() const;
  double size() const;
  void write(Solution* solution) const;
  bool extend() const;
  bool sampled() const;
  template <class T = float>
  const T* given(int64_t i = 0) const {
    return static_cast<const T*>(problem_.matrix) + i * columns_;
  }
  double lowest_reduced(int64_t i, int thread);
  double cost(int64_t i, int64_t j) const;
  int32_t copies_of(int64_t j) const { return copies_.empty() ? 1 : copies_[j]; }

  template <class Function>
  void each_row(int64_t count, Function&& function) {
    assignment::each_row(team_, control_, thread_, count, stride_, function);
  }

  const Problem& problem_;
  const Options& options_;
  Team& team_;
  Control& control_;
  const int thread_;
  const Kernels& kernels_;
  const int64_t rows_, columns_, stride_, total_;
  std::vector<int32_t> copies_;  // of each column; empty: one of each
  double range_ = 0;             // of the costs, or the greatest of those of rows
  std::unique_ptr<Clouds> clouds_;
  std::unique_ptr<ExactPoints> exact_;
  Candidates candidates_;
  double fine_range_ = 1;
  std::vector<double> low_;
  std::vector<int32_t> match_;
  // Dual variables and costs of pairs, as in the matrix or the centred clouds.
  std::vector<double> u_, matched_, v_;
  std::vector<std::vector<double>> costs_;  // of each thread, a row of points
  double cost_ = 0, gap_ = 0;
  bool given_up_ = false;  // before anything was found
};

}  // namespace fastgen::assignment
