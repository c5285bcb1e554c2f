// A start for points of which a few are far from the others (heavy tails). Their costs span so many
// sizes that in levels of the range most pairs are as good as any other, and phases with an epsilon
// that only the far points need have all rows bid in vain.
//
// So a part is solved first, as it stands, in rounds down to its own gap: all points, of rows and
// columns, that are farther than R from the middle of their cloud, a quarter of n together, and as
// many of the others as can be paired with those. What is solved is exact, dual variables u
// included, however far the farthest are; a part with points far from its others starts in the same
// way. Prices of all columns follow,
//
//     v_j = min_i (c_ij - u_i)      over rows i of the part:
//
// the highest under which no row of the part has a better pair. What the costs less these prices
// say of pairs among the other points is of size (2 R)^2 at most, so the first round of the whole
// problem has levels of that, and more costs as much. Whatever this leaves out, certificates are of
// all pairs: it may cost time and nothing else.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "assignment/rounds.h"

namespace fastgen::assignment {
namespace {

// Of n points, so many at least (in more than FLAT_DIMS dimensions levels settle some more of them
// as soon), the part has a FAR_PART-th where the range is more than FAR times (2 R)^2; else levels
// tell the others' pairs apart.
constexpr int64_t FLAT_FAR_FROM = 1200, FAR_FROM = 2000, FAR_PART = 4;
// From the means, which far points move, that is less.
constexpr double FAR = 1000, MAYBE_FAR = 16;
// The first epsilon, of the range of levels, and what of its cost the part's gap may be.
constexpr double FAR_FIRST = 0.03, FAR_TOLERANCE = 1e-4;

// Squared distances from a middle; point(i) has as many coordinates.
template <class Point>
std::vector<double> squares_of(int64_t count, const std::vector<double>& middle,
                               const Point& point) {
  std::vector<double> squares(count);
  for (int64_t i = 0; i < count; ++i)
    for (size_t k = 0; k < middle.size(); ++k)
      squares[i] += (point(i)[k] - middle[k]) * (point(i)[k] - middle[k]);
  return squares;
}

// The medians of the coordinates, which no few points move far, as they do the mean.
template <class Point>
std::vector<double> middle_of(int64_t count, int64_t dims, const Point& point) {
  std::vector<double> middle(dims), along(count);
  for (int64_t k = 0; k < dims; ++k) {
    for (int64_t i = 0; i < count; ++i) along[i] = point(i)[k];
    std::nth_element(along.begin(), along.begin() + count / 2, along.end());
    middle[k] = along[count / 2];
  }
  return middle;
}

// Squares of which a part of the points (see FAR_PART) has more.
double far_from(const std::vector<double>& of_rows, const std::vector<double>& of_columns) {
  std::vector<double> all = of_rows;
  all.insert(all.end(), of_columns.begin(), of_columns.end());
  const auto last_within = all.end() - 1 - of_columns.size() / FAR_PART;
  std::nth_element(all.begin(), last_within, all.end());
  return *last_within;
}

// Those that are farther than `far`, and the others.
struct Split {
  Split(const std::vector<double>& squares, double far) {
    for (size_t i = 0; i < squares.size(); ++i) (squares[i] > far ? beyond : within).push_back(i);
  }
  std::vector<int64_t> beyond, within;
};

// Those beyond and `count` of those within, irregularly (see sample.h).
std::vector<int64_t> part_of(const Split& split, int64_t count) {
  std::vector<int64_t> part = split.beyond;
  const int64_t all = split.within.size();
  for (int64_t k = 0; k < count; ++k) {
    const int64_t begin = k * all / count, room = (k + 1) * all / count - begin;
    const uint32_t hash = static_cast<uint32_t>(k) * 2654435769u;
    part.push_back(split.within[begin + static_cast<int64_t>((uint64_t{hash} * room) >> 32)]);
  }
  return part;
}

}  // namespace

// The first round where a few points are far from the others; false, with nothing done, where none
// are.
bool Assignment::far_points_first() {
  const int64_t from = problem_.dims <= FLAT_DIMS ? FLAT_FAR_FROM : FAR_FROM;
  if (!sampled() || options_.epsilon > 0 || columns_ < from) return false;
  const auto row = [&](int64_t i) { return clouds_->row(i); };
  const auto column = [&](int64_t j) { return clouds_->column(j); };
  const auto wide = [&](double far, double times) {
    const double range = problem_.root ? 2 * std::sqrt(far) : 4 * far;
    return has_levels(range) && range_ > times * range ? range : 0;
  };
  std::vector<double> middle(problem_.dims);
  std::vector<double> of_rows = squares_of(rows_, middle, row),
                      of_columns = squares_of(columns_, middle, column);
  if (wide(far_from(of_rows, of_columns), MAYBE_FAR) == 0) return false;
  of_rows = squares_of(rows_, middle_of(rows_, problem_.dims, row), row);
  of_columns = squares_of(columns_, middle_of(columns_, problem_.dims, column), column);
  const double far = far_from(of_rows, of_columns), range = wide(far, FAR);
  if (range == 0) return false;
  const Split rows(of_rows, far), columns(of_columns, far);
  extend_prices(part_of(rows, columns.beyond.size()), part_of(columns, rows.beyond.size()));
  const std::vector<double> low = u_, prices = v_;
  const double scale = LEVELS / range;
  const Candidates unknown;
  const FinePointRows fine(*exact_, *clouds_, low.data(), prices.data(), scale, unknown, MOST_KEPT);
  solve(fine, total_, Prices(), FAR_FIRST, scale, fine_slack(scale));
  return true;
}

// Dual variables by those of a part.
void Assignment::extend_prices(const std::vector<int64_t>& rows,
                               const std::vector<int64_t>& columns) {
  const int64_t count = rows.size(), dims = problem_.dims;
  std::vector<double> row_points(count * dims), column_points(count * dims), u(count), v(count);
  for (int64_t k = 0; k < count; ++k) {
    std::copy_n(clouds_->row(rows[k]), dims, &row_points[k * dims]);
    std::copy_n(clouds_->column(columns[k]), dims, &column_points[k * dims]);
  }
  const Problem part{Form::points,         true, count,         count,  nullptr, row_points.data(),
                     column_points.data(), dims, problem_.root, nullptr};
  std::vector<int64_t> match(count);
  Solution found{match.data(), u.data(), v.data(), 0, 0};
  const Options options{0, FAR_TOLERANCE, 0, nullptr};
  Assignment(part, options, team_, control_, thread_).run(&found);
  std::fill(v_.begin(), v_.end(), std::numeric_limits<double>::infinity());
  std::vector<std::vector<double>> lowest(team_.size(), v_);
  each_row(count, [&](int64_t k, int thread) {
    std::vector<double>& costs = costs_[thread];
    costs.resize(columns_);
    exact_->row(rows[k], costs.data());
    for (int64_t j = 0; j < columns_; ++j)
      lowest[thread][j] = std::min(lowest[thread][j], costs[j] - u[k]);
  });
  for (const std::vector<double>& some : lowest)
    for (int64_t j = 0; j < columns_; ++j) v_[j] = std::min(v_[j], some[j]);
  each_row(rows_, [&](int64_t i, int thread) { u_[i] = lowest_reduced(i, thread); });
}

}  // namespace fastgen::assignment
