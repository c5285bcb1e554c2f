#include "assignment/direct.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "assignment/certificate.h"

namespace fastgen::assignment {
namespace {

constexpr double INFINITE = std::numeric_limits<double>::infinity();
// Up to so many rows nothing is faster, whatever the costs.
constexpr int64_t SMALL = 48, MEDIUM = 256, LARGE = 1024;
// Between two questions to Control: some milliseconds.
constexpr int64_t POLL_COSTS = int64_t{1} << 23;
// Bids, in times the rows, and passes over those that are left.
constexpr int64_t MOST_BIDS = 4;
constexpr int PASSES = 3;
// With more of the rows left than this after as many bids as rows, or at the end, the auction is
// faster; where ties have ended the bids, there are many equal columns (see copies.cpp).
constexpr double LEFT_EARLY = 0.45, LEFT = 0.3, LEFT_BY_TIES = 0.15, LEFT_OF_MEDIUM = 0.45;
// Of large problems the same is said by the middle step of the bids, in units of what a row's costs
// are above the lowest, over the rows: 1 for independent uniform costs. It is far below that where
// costs are of very different sizes, which levels do not suit. Far further below, problems that are
// not quite large are solved here whatever is left.
constexpr int64_t NOT_LARGE = 512;
constexpr double FINE_STEPS = 0.05, FINEST_STEPS = 0.005;
constexpr int64_t ASKED = 16;  // rows

template <class T>
class Direct {
 public:
  Direct(const Problem& problem, const Options& options, Control& control, int thread)
      : options_(options),
        control_(control),
        thread_(thread),
        costs_(static_cast<const T*>(problem.matrix)),
        rows_(problem.rows),
        columns_(problem.columns),
        price_(columns_),
        blocked_(columns_),
        match_(rows_, -1),
        owner_(columns_, -1) {}

  bool run(Solution* solution) {
    return lowest_costs() && bid_for_all() && augment_all() && certify(solution);
  }

 private:
  const T* row(int64_t i) const { return costs_ + i * columns_; }
  double reduced(int64_t i, int64_t j) const { return row(i)[j] - price_[j]; }

  void work() {
    if ((looked_at_ += columns_) < POLL_COSTS) return;
    looked_at_ = 0;
    control_.poll(thread_);
  }

  bool lowest_costs() {
    std::vector<T> lowest(columns_, std::numeric_limits<T>::infinity());
    for (int64_t i = 0; i < rows_; ++i) {
      work();
      if (!lower(row(i), lowest.data())) return false;
    }
    // Where columns may be left over, prices must start from zero.
    if (rows_ < columns_) return true;
    for (int64_t j = 0; j < columns_; ++j) {
      if (!std::isfinite(lowest[j])) return false;
      price_[j] = lowest[j];
    }
    return true;
  }

  // Bids of each row in turn and, at once, of the one that it displaces, in steps that are not 0.
  // False where that leaves too much.
  bool bid_for_all() {
    free_.resize(rows_);
    for (int64_t i = 0; i < rows_; ++i) free_[i] = static_cast<int32_t>(i);
    std::vector<int32_t> next;
    for (int pass = 0; pass < PASSES && !free_.empty(); ++pass) {
      next.clear();
      for (const int32_t first : free_)
        for (int64_t i = first; i >= 0;) {
          if (bids_ >= MOST_BIDS * rows_) {
            next.push_back(static_cast<int32_t>(i));
            break;
          }
          if (bids_ == rows_ && too_many_left()) return false;
          ++bids_;
          i = bid_for(i, &next);
        }
      free_.swap(next);
    }
    const double left = static_cast<double>(free_.size()) / static_cast<double>(rows_);
    if (rows_ <= SMALL || free_.empty() || finest_) return true;
    if (rows_ <= MEDIUM) return left <= LEFT_OF_MEDIUM;
    if (bids_ < MOST_BIDS * rows_) return left <= LEFT_BY_TIES;
    return left <= LEFT && (rows_ <= LARGE || forbidden_ || fine_steps(FINE_STEPS));
  }

  // Returns the row that is displaced, or -1.
  int64_t bid_for(int64_t i, std::vector<int32_t>* left) {
    const Bid best = bid(i);
    const double step = best.second - best.first;
    if (rows_ > SMALL && bids_ <= rows_) steps_.push_back(step);
    // Of several that are equally good a free one is as good as any; there may be one alone.
    if (!(step > 0) || best.second == INFINITE) {
      const int64_t j = best.first < INFINITE ? free_column(i, best) : -1;
      if (j >= 0)
        assign(i, j);
      else
        left->push_back(static_cast<int32_t>(i));
      return -1;
    }
    const int64_t previous = owner_[best.column];
    price_[best.column] -= step;
    assign(i, best.column);
    if (previous >= 0) match_[previous] = -1;
    return previous;
  }

  void assign(int64_t i, int64_t j) {
    match_[i] = static_cast<int32_t>(j);
    if (owner_[j] < 0) ++taken_;
    owner_[j] = static_cast<int32_t>(i);
    blocked_[j] = INFINITE;
  }

  bool too_many_left() {
    if (rows_ <= SMALL || static_cast<double>(rows_ - taken_) <= LEFT_EARLY * rows_) return false;
    finest_ = rows_ <= NOT_LARGE && fine_steps(FINEST_STEPS);
    return !finest_;
  }

  bool fine_steps(double most) {
    double above = 0;
    for (int64_t k = 0; k < ASKED; ++k) {
      const int64_t i = k * rows_ / ASKED;
      const double lowest = bid(i).first;
      for (int64_t j = 0; j < columns_; ++j) above += reduced(i, j) - lowest;
    }
    const auto middle = steps_.begin() + static_cast<int64_t>(steps_.size()) / 2;
    std::nth_element(steps_.begin(), middle, steps_.end());
    return *middle * rows_ < most * above / static_cast<double>(ASKED * columns_);
  }

  bool augment_all() {
    dist_.resize(columns_);
    before_.resize(columns_);
    for (const int32_t root : free_)
      if (!augment(root)) return false;
    return true;
  }

  // Dijkstra from a row to the nearest free column; false if there is none.
  bool augment(int64_t root) {
    std::fill(dist_.begin(), dist_.end(), INFINITE);
    done_.clear();
    Search search{dist_.data(), before_.data(), blocked_.data(), INFINITE};
    const Bid first = bid(root);
    if (!(first.first < INFINITE)) return false;
    Reached near = reach(root, first.first, 0, &search);
    while (near.dist < search.limit) {
      const int64_t j = near.column, i = owner_[j];
      done_.push_back(near);
      dist_[j] = -1;
      near = reach(i, reduced(i, j), near.dist, &search);
    }
    if (search.limit == INFINITE) return false;
    for (const Reached& passed : done_) price_[passed.column] -= search.limit - passed.dist;
    int64_t j = 0;
    while (blocked_[j] > 0 || dist_[j] != search.limit) ++j;
    for (;;) {
      const int64_t i = before_[j], next = match_[i];
      assign(i, j);
      if (i == root) return true;
      j = next;
    }
  }

  bool certify(Solution* solution) {
    std::vector<double> matched(rows_), duals(rows_);
    Sum sum;
    for (int64_t i = 0; i < rows_; ++i) {
      work();
      matched[i] = row(i)[match_[i]];
      duals[i] = lowest_reduced(i);
      sum.add(matched[i]);
    }
    const double cost = sum.value();
    const double gap = certified_gap({matched, duals, price_, match_, {}, rows_ == columns_, cost});
    const double size =
        options_.left_out ? std::abs(cost + options_.left_out) : size_of(std::move(matched));
    if (!settled(gap, size, options_)) return false;
    solution->cost = cost;
    solution->gap = gap;
    std::copy(match_.begin(), match_.end(), solution->match);
    std::copy(duals.begin(), duals.end(), solution->rows);
    std::copy(price_.begin(), price_.end(), solution->columns);
    return true;
  }

  bool lower(const T* costs, T* lowest) {
    if constexpr (sizeof(T) == 4)
      return kernels_.lowest_float(costs, columns_, lowest, &forbidden_);
    else
      return kernels_.lowest_double(costs, columns_, lowest, &forbidden_);
  }
  Bid bid(int64_t i) {
    work();
    if constexpr (sizeof(T) == 4)
      return kernels_.bid_float(row(i), price_.data(), columns_);
    else
      return kernels_.bid_double(row(i), price_.data(), columns_);
  }
  int64_t free_column(int64_t i, const Bid& best) const {
    if constexpr (sizeof(T) == 4)
      return kernels_.free_float(row(i), price_.data(), blocked_.data(), columns_, best);
    else
      return kernels_.free_double(row(i), price_.data(), blocked_.data(), columns_, best);
  }
  Reached reach(int64_t i, double offset, double base, Search* search) {
    work();
    const double shift = base - offset;
    if constexpr (sizeof(T) == 4)
      return kernels_.reach_float(row(i), price_.data(), columns_, shift, base, i, search);
    else
      return kernels_.reach_double(row(i), price_.data(), columns_, shift, base, i, search);
  }
  double lowest_reduced(int64_t i) const {
    const Kernels& all = kernels<Kernels>();
    if constexpr (sizeof(T) == 4)
      return all.lowest_float(row(i), price_.data(), columns_);
    else
      return all.lowest_double(row(i), price_.data(), columns_);
  }

  const Options& options_;
  Control& control_;
  const int thread_;
  const DirectKernels& kernels_ = kernels<DirectKernels>();
  const T* costs_;
  const int64_t rows_, columns_;
  // Of columns: blocked are those that are assigned, infinite or 0.
  std::vector<double> price_, blocked_, dist_;
  std::vector<int32_t> match_, owner_, free_;
  std::vector<int64_t> before_;
  std::vector<Reached> done_;
  std::vector<double> steps_;  // of the first bids
  bool forbidden_ = false;     // some pair
  bool finest_ = false;
  int64_t looked_at_ = 0, bids_ = 0, taken_ = 0;
};

}  // namespace

bool is_small(const Problem& problem) {
  return problem.rows <= SMALL && problem.rows * problem.columns <= SMALL * SMALL;
}

bool assign_directly(const Problem& problem, const Options& options, Control& control, int thread,
                     Solution* solution) {
  return problem.float64 ? Direct<double>(problem, options, control, thread).run(solution)
                         : Direct<float>(problem, options, control, thread).run(solution);
}

}  // namespace fastgen::assignment
