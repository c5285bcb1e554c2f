#include "assignment/certificate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "assignment/points.h"

namespace fastgen::assignment {
namespace {

template <class T>
class MatrixCosts : public Costs {
 public:
  explicit MatrixCosts(const Problem& problem)
      : matrix_(static_cast<const T*>(problem.matrix)), columns_(problem.columns) {}
  const double* row(int64_t i, double* scratch) const override {
    const T* from = matrix_ + i * columns_;
    if constexpr (sizeof(T) == 8) return from;
    std::copy_n(from, columns_, scratch);
    return scratch;
  }

 private:
  const T* matrix_;
  const int64_t columns_;
};

// Of the points as they are given: where some are far, to centre them would cost the others'
// digits.
template <class T>
class PointCosts : public Costs {
 public:
  explicit PointCosts(const Problem& problem)
      : kernels_(kernels<Kernels>()),
        root_(problem.root),
        rows_(static_cast<const T*>(problem.row_points),
              static_cast<const T*>(problem.row_points) + problem.rows * problem.dims),
        columns_(problem.columns * problem.dims) {
    const T* columns = static_cast<const T*>(problem.column_points);
    for (int64_t j = 0; j < problem.columns; ++j)
      for (int64_t k = 0; k < problem.dims; ++k)
        columns_[k * problem.columns + j] = columns[j * problem.dims + k];
    points_ = {problem.dims, problem.columns, nullptr, columns_.data()};
  }
  const double* row(int64_t i, double* scratch) const override {
    kernels_.points_row_double(points_, &rows_[i * points_.dims], root_, points_.stride, scratch);
    return scratch;
  }

 private:
  const Kernels& kernels_;
  const bool root_;
  std::vector<double> rows_, columns_;
  Points points_;
};

// Rows that take long to compute.
class KeptCosts : public Costs {
 public:
  KeptCosts(const Costs& costs, int64_t rows, int64_t columns, Control& control, int thread)
      : kept_(rows * columns), columns_(columns) {
    for (int64_t i = 0; i < rows; ++i) {
      costs.row(i, &kept_[i * columns]);
      control.poll(thread);
    }
  }
  const double* row(int64_t i, double*) const override { return &kept_[i * columns_]; }

 private:
  std::vector<double> kept_;
  const int64_t columns_;
};

constexpr int64_t MOST_NUMBERS = int64_t{1} << 27;  // 1 GiB

// Whether no pair can cost less whatever the others are: of points if they are equal.
template <class T>
bool lowest_pairs(const Problem& problem, const int64_t* match) {
  if (problem.form == Form::points) {
    const T *rows = static_cast<const T*>(problem.row_points),
            *columns = static_cast<const T*>(problem.column_points);
    for (int64_t i = 0; i < problem.rows; ++i) {
      const T* row = rows + i * problem.dims;
      if (!std::equal(row, row + problem.dims, columns + match[i] * problem.dims)) return false;
    }
    return true;
  }
  const T* row = static_cast<const T*>(problem.matrix);
  for (int64_t i = 0; i < problem.rows; ++i, row += problem.columns)
    if (row[match[i]] > *std::min_element(row, row + problem.columns)) return false;
  return true;
}

// Those are proved by rows alone.
template <class T>
void keep_pairs(const Problem& problem, Solution* solution) {
  const T* matrix = static_cast<const T*>(problem.matrix);
  Sum sum;
  for (int64_t i = 0; i < problem.rows; ++i) {
    solution->rows[i] = matrix ? matrix[i * problem.columns + solution->match[i]] : 0;
    sum.add(solution->rows[i]);
  }
  std::fill_n(solution->columns, problem.columns, 0.0);
  solution->cost = sum.value();
  solution->gap = sum.distance(solution->cost);
}

// work(costs), which looks at rows again and again.
template <class T, class Work>
auto with_costs(const Problem& problem, Control& control, int thread, const Work& work) {
  if (problem.form == Form::matrix) return work(MatrixCosts<T>(problem));
  const PointCosts<T> costs(problem);
  if (problem.rows * problem.columns > MOST_NUMBERS) return work(costs);
  return work(KeptCosts(costs, problem.rows, problem.columns, control, thread));
}

// No squared distance is off by more than this part, nor is a sum of them.
double gap_of(const Problem& problem, const Shipment& found) {
  if (problem.form == Form::matrix) return found.rounding;
  return found.rounding + 0x1p-52 * (problem.dims + 4.0) * found.cost;
}

template <class T>
void settle_in(const Problem& problem, Control& control, int thread, Solution* solution) {
  const bool start = std::isfinite(solution->gap);
  if (start && lowest_pairs<T>(problem, solution->match)) return keep_pairs<T>(problem, solution);
  const std::vector<int64_t> supply(problem.rows, 1);
  std::vector<int64_t> demand(problem.columns, 1);
  if (problem.copies) std::copy_n(problem.copies, problem.columns, demand.begin());
  const std::vector<int32_t> match(solution->match, solution->match + problem.rows);
  const Shipment found = with_costs<T>(problem, control, thread, [&](const Costs& costs) {
    const Transport transport{problem.rows,
                              problem.columns,
                              supply.data(),
                              demand.data(),
                              &costs,
                              start ? match.data() : nullptr,
                              start ? solution->rows : nullptr};
    return ship(transport, control, thread);
  });
  for (const Cell& cell : found.cells) solution->match[cell.row] = cell.column;
  std::copy(found.rows.begin(), found.rows.end(), solution->rows);
  std::copy(found.columns.begin(), found.columns.end(), solution->columns);
  solution->cost = found.cost;
  solution->gap = gap_of(problem, found);
}

}  // namespace

double size_of(double* pairs, int64_t count) {
  // So many times what most of them are above.
  constexpr double FAR = 1e3;
  constexpr int64_t FEW = 8;
  for (int64_t k = 0; k < count; ++k) pairs[k] = std::abs(pairs[k]);
  double* const end = std::remove(pairs, pairs + count, 0.0);
  if (end == pairs) return 0;
  double* const few = pairs + (end - pairs) / FEW;
  std::nth_element(pairs, few, end);
  const double most = FAR * *few;
  double sum = 0;
  for (const double* pair = pairs; pair != end; ++pair) sum += std::min(*pair, most);
  return sum;
}

double size_of(const Problem& problem, const int64_t* match) {
  std::vector<double> pairs(problem.rows);
  const auto distance = [&](const auto* rows, const auto* columns, int64_t i) {
    double sum = 0;
    for (int64_t k = 0; k < problem.dims; ++k) {
      const double difference =
          double{rows[i * problem.dims + k]} - double{columns[match[i] * problem.dims + k]};
      sum += difference * difference;
    }
    return problem.root ? std::sqrt(sum) : sum;
  };
  for (int64_t i = 0; i < problem.rows; ++i)
    pairs[i] = problem.float64 ? distance(static_cast<const double*>(problem.row_points),
                                          static_cast<const double*>(problem.column_points), i)
                               : distance(static_cast<const float*>(problem.row_points),
                                          static_cast<const float*>(problem.column_points), i);
  return size_of(pairs.data(), problem.rows);
}

double certified_gap(const Proof& proof) {
  Sum gap, cost;
  double of_rows = 0;
  for (int64_t i = 0; i < proof.row_count; ++i) {
    cost.add(proof.matched[i]);
    gap.add(proof.matched[i]);
    gap.add(-proof.rows[i]);
    of_rows += std::abs(proof.rows[i]);
    if (proof.all) gap.add(-proof.columns[proof.match[i]]);
  }
  for (int64_t j = 0; !proof.all && j < proof.column_count; ++j)
    gap.add(-proof.columns[j], proof.copies ? proof.copies[j] : 1);
  const double value = std::max(gap.value(), 0.0);
  // The lowest of rounded numbers is the lowest, rounded; what is below it is all the more.
  const double found =
      value + gap.distance(gap.value()) + 0x1.01p-53 * of_rows + cost.distance(proof.cost);
  return found >= 0 ? found : std::numeric_limits<double>::infinity();
}

void settle(const Problem& problem, Control& control, int thread, Solution* solution) {
  problem.float64 ? settle_in<double>(problem, control, thread, solution)
                  : settle_in<float>(problem, control, thread, solution);
}

Shipment ship_problem(const Problem& problem, const int64_t* supply, const int64_t* demand,
                      Control& control, double* gap) {
  const auto work = [&](const Costs& costs) {
    const Transport transport{problem.rows, problem.columns, supply, demand,
                              &costs,       nullptr,         nullptr};
    return ship(transport, control, 0);
  };
  const Shipment found = problem.float64 ? with_costs<double>(problem, control, 0, work)
                                         : with_costs<float>(problem, control, 0, work);
  *gap = gap_of(problem, found);
  return found;
}

}  // namespace fastgen::assignment
