// Assignment of n rows to m >= n columns with integer costs: an auction with a falling epsilon
// (Bertsekas 1979, 1988) until few rows are left, then shortest augmenting paths (Jonker and
// Volgenant 1987) for those. Prices only fall, so a row's list of near columns stays good until
// its best two prices have fallen to the list's bound.
//
// A bid. For a row, column j costs cost[j] - price[j]: its reduced cost. The row takes the column
// with the lowest, `first`, from whoever has it, and lowers the column's price by
//
//     (second - first) + epsilon,      second: the lowest reduced cost of the other columns.
//
// Then its column costs second + epsilon: not more than epsilon above the best that it could have.
// So it stays while prices fall elsewhere: others only get dearer. The row that lost its column
// waits for its turn to bid. Were epsilon 0, two rows that want the same two columns would take
// them from each other for ever.
//
// A phase has one epsilon: `release` frees the rows whose column costs more than that above their
// best, and they bid until few are left (`phase`). Epsilon falls from phase to phase, as prices
// that are nearly right leave little to bid for. The rows that the last phase leaves over are
// assigned one by one along shortest paths (`augment`), which change prices too, but by no more
// than keeps every row within epsilon of its best.
//
// Bounds. At the start of a phase prices are from -2 RANGE to RANGE (`rebase` sees to that). No
// column is bid for whose reduced cost exceeds that of a column without a bid: prices fall at most
// RANGE + epsilon below, so reduced costs stay under 5 RANGE, distances under 4 RANGE, and their
// sums with padding (6 RANGE) under 16 RANGE = 2^31.
//
// Equal columns are one column with copies (the auction of similar objects of Bertsekas and
// Castanon 1989): a row bids for the copy with the highest price, which is the column's, against
// the best *other* column. Copies that bid against one another would have prices fall by epsilon.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "assignment/rows.h"
#include "assignment/team.h"

namespace fastgen::assignment {

// Asked from time to time whether to go on; throws to stop.
class Control {
 public:
  virtual ~Control() = default;
  virtual void poll(int thread) = 0;
};

// function(i, thread) for `count` rows of `stride` columns on the team's threads, numbered from
// `first` on for the control.
template <class Function>
void each_row(Team& team, Control& control, int first, int64_t count, int64_t stride,
              Function&& function) {
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 15) / stride);
  team.each(count, grain, [&](int64_t begin, int64_t end, int thread) {
    control.poll(first + thread);
    for (int64_t i = begin; i < end; ++i) function(i, thread);
  });
}

class Solver {
 public:
  // `copies` [columns] of each column, at least two columns; null: one of each.
  Solver(const Rows& rows, int64_t row_count, int64_t columns, const int32_t* copies, Team& team,
         Control& control, int thread);

  // Final prices are within epsilon of optimal: every row's column costs at most `last` levels
  // more than its best one. Starts from `prices` [padded columns]; empty: the lowest cost of each.
  void solve(std::vector<int32_t>& prices, int32_t first, int32_t last);

  // The columns [MOST_LISTED] whose reduced cost is within `slack` of the row's lowest; 0 if its
  // list does not tell. Rows may be asked for on several threads.
  int64_t candidates(int64_t row, int32_t slack, int thread, int32_t* columns);

  const std::vector<int32_t>& matches() const { return match_; }  // column of each row

 private:
  void keep();
  void look_at(int64_t rows);
  const int32_t* whole_row(int64_t i, int thread) {
    return kept_ ? kept_->row(i, nullptr) : rows_.row(i, scratch_[thread].costs.data());
  }
  std::vector<int32_t> lowest_costs();
  void rebase();
  bool phase(int32_t epsilon, int64_t most_bids);
  void release(int32_t epsilon);
  void hand_out();
  int32_t sell(int32_t column, int32_t row, int32_t increment);
  Best listed(int64_t row) const;
  bool stale(int64_t row, const Best& best, int32_t slack) const;
  Best best(int64_t row, int32_t slack);
  void build_ahead(int64_t row, int32_t slack);
  void build(int64_t row, int thread);
  int64_t list_from_row(int64_t row, int thread, int32_t* columns, int32_t* costs);
  int64_t list_from_boxes(int64_t row, int thread, int32_t* columns, int32_t* costs);
  void raise_boxes();
  // A row that a search has come to, at distance `base`; `offset` is its reduced cost there.
  struct Branch {
    int32_t row, base, offset;
    bool rebuilt;  // its list
  };
  Nearest search_rows(int32_t root);
  Nearest search_rows_from(Nearest near);
  Nearest search_lists(int32_t root);
  Nearest relax_row(const Branch& branch);
  void augment(int32_t root);
  void work(int64_t elements);

  const Kernels& kernels_;
  Team& team_;
  Control& control_;
  const int thread_;
  const int64_t row_count_, columns_, padded_;
  const bool lists_;
  const Rows& rows_;
  std::unique_ptr<const Rows> kept_;
  int64_t looked_at_ = 0;
  // Capacity of a row's list of near columns, and from how many groups those are.
  const int64_t listed_;
  const int groups_;
  int32_t* price_ = nullptr;
  std::vector<int32_t> match_, match_cost_;
  // Copies of a column, begin_[j] to begin_[j + 1]: a heap during a phase, the price on top.
  struct Copy {
    int32_t price, owner;  // -1: none
    bool operator<(const Copy& b) const {
      return price != b.price ? price < b.price : owner > b.owner;
    }
  };
  std::vector<int64_t> begin_;
  std::vector<Copy> copies_;
  std::vector<int32_t> free_;  // copies without an owner, of each column
  // A queue in a ring.
  std::vector<int32_t> queue_;
  int64_t head_ = 0, waiting_ = 0;
  std::vector<int32_t> list_columns_, list_costs_, list_counts_, list_bounds_;
  std::vector<char> rebuilt_;  // with the last prices
  std::vector<int32_t> stale_;
  int64_t ahead_ = 1;
  // Of each thread.
  struct Scratch {
    std::vector<int32_t> costs, reduced, near, bounds, visited;
  };
  std::vector<Scratch> scratch_;
  std::vector<int32_t> box_prices_;  // the highest in each box, or above it
  // Of a path: distances, the row before each column and the cost there (unless `whole_` rows were
  // looked at), columns done.
  std::vector<int32_t> dist_, parent_, parent_cost_;
  std::vector<Nearest> done_;
  bool whole_ = false;
  std::vector<Branch> branches_;
  // Heaps of columns by distance, and of branches by the distance of what their lists leave out.
  std::vector<Nearest> near_, beyond_;
  int64_t elements_ = 0;
  int64_t bids_ = 0;
  int64_t stale_bids_ = 0;  // of the last ones, those whose list did not tell
  bool by_rows_ = false;    // such bids look through the row
};

}  // namespace fastgen::assignment
