#include "assignment/direct.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "assignment/arrays.h"
#include "assignment/certificate.h"

namespace fastgen::assignment {
namespace {

constexpr double INFINITE = std::numeric_limits<double>::infinity();
// Up to so many rows nothing is faster, whatever the costs.
constexpr int64_t SMALL = 48, MEDIUM = 256, LARGE = 1024;
// Between two questions to Control: some milliseconds.
constexpr int64_t POLL_COSTS = int64_t{1} << 23;
// Bids, in times the rows, of small, of medium and of larger problems, and passes over those that
// are left: next to the steps of a search a bid takes the longer the fewer columns there are.
constexpr int64_t MOST_BIDS[] = {1, 2, 4};
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
// Of a row's two numbers: that much of a gap is no news.
constexpr double ROUNDING = 4 * std::numeric_limits<double>::epsilon();

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
        most_bids_(rows_ * MOST_BIDS[(rows_ > SMALL) + (rows_ > MEDIUM)]),
        padded_((columns_ + WIDEST - 1) / WIDEST * WIDEST),
        arrays_(3 * Arrays::bytes<double>(padded_) + Arrays::bytes<T>(padded_) +
                Arrays::bytes<int64_t>(padded_) + Arrays::bytes<int32_t>(columns_) +
                Arrays::bytes<Reached>(rows_) + 2 * Arrays::bytes<double>(rows_) +
                3 * Arrays::bytes<int32_t>(rows_)),
        price_(arrays_.filled<double>(padded_, 0)),
        blocked_(arrays_.filled<double>(padded_, 0)),
        dist_(arrays_.take<double>(padded_)),
        duals_(arrays_.filled<double>(rows_, -INFINITE)),
        matched_(arrays_.take<double>(rows_)),
        lowest_(arrays_.take<T>(padded_)),
        before_(arrays_.take<int64_t>(padded_)),
        done_(arrays_.take<Reached>(rows_)),
        match_(arrays_.filled<int32_t>(rows_, -1)),
        owner_(arrays_.filled<int32_t>(columns_, -1)),
        free_(arrays_.take<int32_t>(rows_)),
        next_(arrays_.take<int32_t>(rows_)) {}

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
    std::fill_n(lowest_, padded_, std::numeric_limits<T>::infinity());
    for (int64_t i = 0; i < rows_; ++i) {
      work();
      if (!lower(row(i), lowest_)) return false;
    }
    // Where columns may be left over, prices must start from zero.
    if (rows_ < columns_) return true;
    for (int64_t j = 0; j < columns_; ++j) {
      if (!std::isfinite(lowest_[j])) return false;
      price_[j] = lowest_[j];
    }
    return true;
  }

  // Bids of each row in turn and, at once, of the one that it displaces, in steps that are not 0.
  // False where that leaves too much.
  bool bid_for_all() {
    std::iota(free_, free_ + rows_, 0);
    free_count_ = rows_;
    for (int pass = 0; pass < PASSES && free_count_; ++pass) {
      int64_t left = 0;
      for (int64_t k = 0; k < free_count_; ++k)
        for (int64_t i = free_[k]; i >= 0;) {
          if (bids_ >= most_bids_) {
            next_[left++] = static_cast<int32_t>(i);
            break;
          }
          if (bids_ == rows_ && too_many_left()) return false;
          ++bids_;
          i = bid_for(i, &left);
        }
      std::swap(free_, next_);
      free_count_ = left;
    }
    const double left = static_cast<double>(free_count_) / static_cast<double>(rows_);
    if (rows_ <= SMALL || !free_count_ || finest_) return true;
    if (rows_ <= MEDIUM) return left <= LEFT_OF_MEDIUM;
    if (bids_ < most_bids_) return left <= LEFT_BY_TIES;
    return left <= LEFT && (rows_ <= LARGE || forbidden_ || fine_steps(FINE_STEPS));
  }

  // Returns the row that is displaced, or -1.
  int64_t bid_for(int64_t i, int64_t* left) {
    const Bid best = bid(i);
    const double step = best.second - best.first;
    duals_[i] = best.first;
    if (rows_ > SMALL && bids_ <= rows_) steps_.push_back(step);
    // Of several that are equally good a free one is as good as any; there may be one alone.
    if (!(step > 0) || best.second == INFINITE) {
      const int64_t j = best.first < INFINITE ? free_column(i, best) : -1;
      if (j >= 0)
        assign(i, j);
      else
        next_[(*left)++] = static_cast<int32_t>(i);
      return -1;
    }
    const int64_t previous = owner_[best.column];
    price_[best.column] -= step;
    duals_[i] = std::min(best.second, reduced(i, best.column));
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

  // Where ties have ended the bids, most rows that are left have a path along which nothing changes
  // its price. After one that changes prices from all of those rows at once, more of them do.
  bool augment_all() {
    const bool tied = bids_ < most_bids_ && rows_ > SMALL;
    for (int64_t gained = 2; tied && free_count_ > 1 && gained > 1;) {
      const int64_t before = free_count_;
      augment_tied();
      if (free_count_ > 1 && !augment(free_, free_count_)) return false;
      drop_assigned();
      gained = before - free_count_;
    }
    for (int64_t k = 0; k < free_count_; ++k)
      if (!augment(free_ + k, 1)) return false;
    return true;
  }

  void drop_assigned() {
    free_count_ =
        std::remove_if(free_, free_ + free_count_, [&](int32_t i) { return match_[i] >= 0; }) -
        free_;
  }

  // Rows along paths of pairs that are as good as the best of their rows. What a search without an
  // end has reached no other one need look at: no path leads from there (Hopcroft and Karp 1973).
  void augment_tied() {
    // Of a row, which may have very many: from a place that rows next to one another don't share.
    constexpr int64_t MOST_TIED = 64, APART = 0x9E3779B1;
    struct Tied {
      int64_t begin = -1, end = -1;
    };
    std::vector<Tied> tied(rows_);
    std::vector<int32_t> columns, queue(rows_);
    std::vector<char> reached(columns_);
    const auto list = [&](int64_t i) {
      if (tied[i].begin >= 0) return;
      tied[i].begin = static_cast<int64_t>(columns.size());
      columns.resize(columns.size() + MOST_TIED);
      const int64_t own = match_[i];
      const double most = own < 0 ? bid(i).first : reduced(i, own);
      tied[i].end = tied[i].begin;
      if (most < INFINITE)
        tied[i].end += tight(i, most, i * APART % columns_, MOST_TIED, &columns[tied[i].begin]);
      columns.resize(tied[i].end);
    };
    for (int64_t k = 0; k < free_count_; ++k) {
      int64_t head = 0, tail = 0, end = -1;
      for (queue[tail++] = free_[k]; head < tail && end < 0; ++head) {
        const int32_t i = queue[head];
        list(i);
        for (int64_t at = tied[i].begin; at < tied[i].end && end < 0; ++at) {
          const int32_t j = columns[at];
          if (std::exchange(reached[j], 1)) continue;
          before_[j] = i;
          if (owner_[j] < 0)
            end = j;
          else
            queue[tail++] = owner_[j];
        }
      }
      if (end < 0) continue;
      for (int64_t at = 1; at < tail; ++at) reached[match_[queue[at]]] = 0;
      reached[end] = 0;
      follow(end);
    }
    drop_assigned();
  }

  // Dijkstra from rows to the nearest free column; false if there is none.
  bool augment(const int32_t* roots, int64_t count) {
    std::fill_n(dist_, padded_, INFINITE);
    int64_t done = 0;
    Search search{dist_, before_, blocked_, INFINITE};
    Reached near{INFINITE, 0};
    for (int64_t k = 0; k < count; ++k) {
      const Bid first = bid(roots[k]);
      if (!(first.first < INFINITE)) return false;
      near = reach(roots[k], first.first, 0, &search);
    }
    while (near.dist < search.limit) {
      const int64_t j = near.column, i = owner_[j];
      done_[done++] = near;
      dist_[j] = -1;
      near = reach(i, reduced(i, j), near.dist, &search);
    }
    if (search.limit == INFINITE) return false;
    for (int64_t k = 0; k < done; ++k) price_[done_[k].column] -= search.limit - done_[k].dist;
    int64_t j = 0;
    while (blocked_[j] > 0 || dist_[j] != search.limit) ++j;
    follow(j);
    return true;
  }

  // A path back from column j to a row that has none.
  void follow(int64_t j) {
    while (j >= 0) {
      const int64_t i = before_[j];
      assign(i, std::exchange(j, match_[i]));
    }
  }

  // Prices only fall, so what was a row's lowest reduced cost when it bid is not above its lowest
  // now; only where that is not its column's the row is looked at again.
  bool certify(Solution* solution) {
    Sum sum;
    for (int64_t i = 0; i < rows_; ++i) {
      const double cost = matched_[i] = row(i)[match_[i]], price = price_[match_[i]];
      const double allowed = ROUNDING * (std::abs(cost) + std::abs(price));
      if (cost - price - duals_[i] > allowed) duals_[i] = bid(i).first;
      sum.add(cost);
    }
    const double cost = sum.value();
    const double gap = certified_gap(
        {rows_, columns_, matched_, duals_, price_, match_, nullptr, rows_ == columns_, cost});
    const double size =
        options_.left_out ? std::abs(cost + options_.left_out) : size_of(matched_, rows_);
    if (!settled(gap, size, options_)) return false;
    solution->cost = cost;
    solution->gap = gap;
    std::copy_n(match_, rows_, solution->match);
    std::copy_n(duals_, rows_, solution->rows);
    std::copy_n(price_, columns_, solution->columns);
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
      return kernels_.bid_float(row(i), price_, columns_);
    else
      return kernels_.bid_double(row(i), price_, columns_);
  }
  int64_t free_column(int64_t i, const Bid& best) const {
    if constexpr (sizeof(T) == 4)
      return kernels_.free_float(row(i), price_, blocked_, columns_, best);
    else
      return kernels_.free_double(row(i), price_, blocked_, columns_, best);
  }
  int64_t tight(int64_t i, double most, int64_t from, int64_t room, int32_t* found) {
    work();
    if constexpr (sizeof(T) == 4)
      return kernels_.tight_float(row(i), price_, columns_, most, from, room, found);
    else
      return kernels_.tight_double(row(i), price_, columns_, most, from, room, found);
  }
  Reached reach(int64_t i, double offset, double base, Search* search) {
    work();
    const double shift = base - offset;
    if constexpr (sizeof(T) == 4)
      return kernels_.reach_float(row(i), price_, columns_, shift, base, i, search);
    else
      return kernels_.reach_double(row(i), price_, columns_, shift, base, i, search);
  }

  const Options& options_;
  Control& control_;
  const int thread_;
  const DirectKernels& kernels_ = kernels<DirectKernels>();
  const T* costs_;
  const int64_t rows_, columns_, most_bids_, padded_;
  Arrays arrays_;
  // Of columns: blocked are those that are assigned, infinite or 0.
  double *const price_, *const blocked_, *const dist_;
  double *const duals_, *const matched_;  // of rows
  T* const lowest_;
  int64_t* const before_;
  Reached* const done_;
  int32_t *const match_, *const owner_;
  int32_t *free_, *next_;  // rows without a column, and those that this pass leaves
  int64_t free_count_ = 0;
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
