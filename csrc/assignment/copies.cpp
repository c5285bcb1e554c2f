// Columns that are equal, or equal up to rounding, are assigned as one column with copies.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "assignment/certificate.h"
#include "assignment/direct.h"
#include "assignment/operation.h"

namespace fastgen::assignment {
namespace {

// Copies of one column that are worth the search, and how many rows of a matrix are asked first.
constexpr int64_t MANY = 16, PROBES = 16;
// Costs of equal points may differ in the last digits by where in the matrix they stand.
constexpr double ULPS = 2;

struct Distinct {
  std::vector<int32_t> columns;  // one of each kind, ascending; empty: all are distinct enough
  std::vector<int32_t> copies;   // of each of them
  std::vector<int32_t> kind;     // of each column of the problem
  double rounding = 0;           // how far a sum of one cost of each row may be off by it
};

// The problem's costs, or with rows and columns exchanged.
template <class T>
struct View {
  View(const Problem& problem, bool transposed)
      : rows(transposed ? problem.columns : problem.rows),
        columns(transposed ? problem.rows : problem.columns),
        row_points(points(problem, !transposed)),
        column_points(points(problem, transposed)),
        matrix_(static_cast<const T*>(problem.matrix)),
        row_stride_(transposed ? 1 : problem.columns),
        column_stride_(transposed ? problem.columns : 1) {}

  const int64_t rows, columns;
  const T *row_points, *column_points;
  T cost(int64_t i, int64_t j) const { return matrix_[i * row_stride_ + j * column_stride_]; }

 private:
  static const T* points(const Problem& problem, bool of_rows) {
    return static_cast<const T*>(of_rows ? problem.row_points : problem.column_points);
  }
  const T* matrix_;
  const int64_t row_stride_, column_stride_;
};

struct Run {
  int64_t begin, end;
};

template <class T>
class Search {
 public:
  explicit Search(const View<T>& costs) : costs_(costs), order_(costs.columns) {
    std::iota(order_.begin(), order_.end(), 0);
    runs_.push_back({0, costs.columns});
  }

  bool of_points(int64_t dims) {
    for (int64_t k = 0; k < dims && !runs_.empty(); ++k)
      if (!split([&](int32_t j) { return costs_.column_points[j * dims + k]; }, same)) return false;
    return !runs_.empty();
  }

  bool of_matrix(Control& control, int thread, double* rounding) {
    const int64_t probes = std::min(PROBES, costs_.rows);
    for (int64_t k = 0; k < probes && !runs_.empty(); ++k) {
      const int64_t i = k * costs_.rows / probes;
      if (!split([&](int32_t j) { return costs_.cost(i, j); }, near)) return false;
    }
    double sum = 0;
    for (int64_t i = 0; i < costs_.rows && !runs_.empty(); ++i) {
      T off = 0;
      for (Run& run : runs_) {
        const T first = costs_.cost(i, order_[run.begin]);
        for (int64_t k = run.end - 1; k > run.begin; --k) {
          const T other = costs_.cost(i, order_[k]);
          if (near(first, other))
            off = std::max(off, std::abs(first - other));
          else
            std::swap(order_[k], order_[--run.end]);
        }
      }
      sum += off;
      const auto few = [](const Run& run) { return run.end - run.begin < MANY; };
      runs_.erase(std::remove_if(runs_.begin(), runs_.end(), few), runs_.end());
      if (i % 64 == 0) control.poll(thread);
    }
    *rounding = sum;
    return !runs_.empty();
  }

  void write(Distinct* found) const {
    std::vector<int32_t> first(costs_.columns), count(costs_.columns, 1);
    std::iota(first.begin(), first.end(), 0);
    for (const Run& run : runs_) {
      const int32_t lowest =
          *std::min_element(order_.begin() + run.begin, order_.begin() + run.end);
      for (int64_t k = run.begin; k < run.end; ++k) first[order_[k]] = lowest;
      count[lowest] = static_cast<int32_t>(run.end - run.begin);
    }
    found->kind.resize(costs_.columns);
    for (int64_t j = 0; j < costs_.columns; ++j) {
      if (first[j] == j) {
        found->kind[j] = static_cast<int32_t>(found->columns.size());
        found->columns.push_back(static_cast<int32_t>(j));
        found->copies.push_back(count[j]);
      } else {
        found->kind[j] = found->kind[first[j]];
      }
    }
  }

 private:
  const View<T>& costs_;
  std::vector<int32_t> order_;
  std::vector<Run> runs_;

  static bool same(T a, T b) { return a == b; }
  // Of the costs themselves, not of the largest: some may be far above all others.
  static bool near(T a, T b) {
    constexpr T ALLOWED = static_cast<T>(ULPS * std::numeric_limits<T>::epsilon());
    return std::abs(a - b) <= ALLOWED * std::max(std::abs(a), std::abs(b));
  }

  // Sorts each run by value, and keeps what follows one another and is `equal`, if that is much.
  // False if some value is not finite.
  template <class Value, class Equal>
  bool split(Value&& value, Equal&& equal) {
    std::vector<Run> kept;
    std::vector<std::pair<T, int32_t>> sorted;
    for (const Run& run : runs_) {
      sorted.clear();
      for (int64_t k = run.begin; k < run.end; ++k) {
        const T x = value(order_[k]);
        if (!std::isfinite(x)) return false;
        sorted.emplace_back(x, order_[k]);
      }
      std::sort(sorted.begin(), sorted.end());
      const int64_t count = run.end - run.begin;
      for (int64_t k = 0, begin = 0; k < count; ++k) {
        order_[run.begin + k] = sorted[k].second;
        if (k + 1 < count && equal(sorted[k].first, sorted[k + 1].first)) continue;
        if (k + 1 - begin >= MANY) kept.push_back({run.begin + begin, run.begin + k + 1});
        begin = k + 1;
      }
    }
    runs_ = std::move(kept);
    return true;
  }
};

template <class T>
Distinct find(const Problem& problem, bool transposed, Control& control, int thread) {
  Distinct found;
  const View<T> costs(problem, transposed);
  Search<T> search(costs);
  const bool any = problem.form == Form::points
                       ? search.of_points(problem.dims)
                       : search.of_matrix(control, thread, &found.rounding);
  if (any) search.write(&found);
  return found;
}

// Columns (or rows, if `transposed`) of which there are many copies; a few do no harm.
Distinct distinct_columns(const Problem& problem, bool transposed, Control& control, int thread) {
  if ((transposed ? problem.rows : problem.columns) < 2 * MANY) return {};
  return problem.float64 ? find<double>(problem, transposed, control, thread)
                         : find<float>(problem, transposed, control, thread);
}

// The problem without copies of columns; or, transposed, of rows.
template <class T>
class Reduced {
 public:
  Reduced(const Problem& problem, const Distinct& distinct, bool transposed) : reduced(problem) {
    const View<T> costs(problem, transposed);
    const int64_t count = distinct.columns.size();
    reduced.columns = count;
    reduced.copies = distinct.copies.data();
    if (problem.form == Form::points) {
      for (const int32_t j : distinct.columns) {
        const T* point = costs.column_points + j * problem.dims;
        values_.insert(values_.end(), point, point + problem.dims);
      }
      reduced.row_points = costs.row_points;
      reduced.column_points = values_.data();
      return;
    }
    values_.resize(costs.rows * count);
    T* to = values_.data();
    for (int64_t i = 0; i < costs.rows; ++i)
      for (int64_t k = 0; k < count; ++k) to[i * count + k] = costs.cost(i, distinct.columns[k]);
    reduced.matrix = to;
  }

  Problem reduced;

 private:
  std::vector<T> values_;
};

// Each kind's columns in turn to the rows that have the kind.
void give_columns(const Distinct& distinct, int64_t rows, int64_t* match) {
  std::vector<int64_t> next(distinct.columns.size() + 1);
  for (size_t k = 0; k < distinct.copies.size(); ++k) next[k + 1] = next[k] + distinct.copies[k];
  std::vector<int64_t> columns(distinct.kind.size()), place(next);
  for (size_t j = 0; j < columns.size(); ++j) columns[place[distinct.kind[j]]++] = j;
  for (int64_t i = 0; i < rows; ++i) match[i] = columns[next[match[i]]++];
}

template <class T>
void assign_distinct(const Problem& problem, const Distinct& distinct, bool transposed,
                     const Options& options, Team& team, Control& control, int thread,
                     Solution* solution) {
  const Reduced<T> parts(problem, distinct, transposed);
  const int64_t count = distinct.columns.size();
  Options own = options;
  std::vector<double> prices;
  if (transposed) {
    own.warm_prices = nullptr;
  } else if (options.warm_prices) {
    prices.assign(count, -std::numeric_limits<double>::infinity());
    for (int64_t j = 0; j < problem.columns; ++j) {
      double& price = prices[distinct.kind[j]];
      price = std::max(price, options.warm_prices[j]);
    }
    own.warm_prices = prices.data();
  }
  std::vector<double> duals(count);
  Solution found = *solution;
  if (transposed) found.rows = solution->columns;
  found.columns = duals.data();
  assign_as_given(parts.reduced, own, team, control, thread, &found);
  give_columns(distinct, problem.rows, solution->match);
  double* expanded = transposed ? solution->rows : solution->columns;
  for (size_t j = 0; j < distinct.kind.size(); ++j) expanded[j] = duals[distinct.kind[j]];
  if (transposed) {
    const std::vector<int64_t> match(solution->match, solution->match + problem.rows);
    for (int64_t i = 0; i < problem.rows; ++i) solution->match[match[i]] = i;
  }
  // Of copies that differ by rounding, any cost may be lower, and any pair's higher.
  solution->cost = found.cost;
  solution->gap = found.gap + 2 * distinct.rounding;
  if (!settled(2 * distinct.rounding, std::abs(found.cost + options.left_out), options))
    assign_as_given(problem, options, team, control, thread, solution);
}

}  // namespace

void assign(const Problem& problem, const Options& options, Team& team, Control& control,
            int thread, Solution* solution) {
  solution->cost = solution->gap = 0;
  if (problem.rows == 0) {
    std::fill_n(solution->columns, problem.columns, 0.0);
    return;
  }
  const bool plain = !options.warm_prices && !options.epsilon;
  if (problem.form == Form::matrix && (plain || is_small(problem)) &&
      assign_directly(problem, options, control, thread, solution))
    return;
  bool transposed = false;
  Distinct distinct = distinct_columns(problem, false, control, thread);
  if (distinct.columns.empty() && problem.rows == problem.columns) {
    transposed = true;
    distinct = distinct_columns(problem, true, control, thread);
  }
  if (distinct.columns.size() < 2)  // of one column alone there is nothing to choose
    assign_as_given(problem, options, team, control, thread, solution);
  else if (problem.float64)
    assign_distinct<double>(problem, distinct, transposed, options, team, control, thread,
                            solution);
  else
    assign_distinct<float>(problem, distinct, transposed, options, team, control, thread, solution);
}

}  // namespace fastgen::assignment
