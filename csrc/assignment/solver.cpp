#include "assignment/solver.h"

#include <algorithm>
#include <climits>
#include <utility>

namespace fastgen::assignment {
namespace {

// Lists hold columns of 16 groups from so many columns on, else of 8; those of points in boxes,
// where prices fall together, and of rows that are all kept, as lists of them end soon, of 32.
constexpr int64_t WIDE_FROM = 2048;
bool long_lists(const Rows& rows) { return rows.boxes() || rows.kept_at_once() == MOST_KEPT; }
// A price war would take more: the paths do the rest.
constexpr int64_t MOST_BIDS = 100;
// Nor do so many bids of each row do much where none of them assigns another one: clusters with
// more rows than columns.
constexpr int64_t PATIENCE = 3;
// Where lists last for so few bids, rows are looked through instead: costs of very different sizes,
// most of which are as good as equal next to epsilon.
constexpr double MOST_STALE = 0.4;
// Lists are built together for at most so many rows.
constexpr int64_t MOST_AHEAD = 128;
// A phase ends when so few of the rows are unassigned: they would bid for long. So many are few of
// any number. What it leaves over, rows and columns far from each other, the next phases leave over
// too, and then each takes a path past most of the rows.
constexpr double PHASE_ENDS = 5e-4;
constexpr int64_t FEW = 4;
// Epsilon falls by this factor; where a phase took fewer bids a row than QUIET, to the last value.
constexpr int32_t FACTOR = 6;
constexpr int64_t QUIET = 3, LONG_JUMP = 8;

// Costs are kept once so many times as many rows have been looked at as there are, which takes them
// that lists do not last.
constexpr int64_t KEPT_AFTER = 4;

// Between two questions to Control: some ten milliseconds.
constexpr int64_t POLL_ELEMENTS = int64_t{1} << 25;

}  // namespace

Solver::Solver(const Rows& rows, int64_t row_count, int64_t columns, const int32_t* copies,
               Team& team, Control& control, int thread)
    : kernels_(kernels<Kernels>()),
      team_(team),
      control_(control),
      thread_(thread),
      row_count_(row_count),
      columns_(columns),
      padded_(padded(columns)),
      lists_(columns >= rows.lists_from()),
      rows_(rows),
      listed_(long_lists(rows) ? MOST_LISTED : MOST_LISTED / 2),
      groups_(long_lists(rows)       ? 32
              : padded_ >= WIDE_FROM ? 16
                                     : 8),
      match_(row_count, -1),
      match_cost_(row_count),
      begin_(columns + 1),
      free_(columns),
      queue_(row_count),
      scratch_(lists_ ? team.size() : 1) {
  for (int64_t j = 0; j < columns; ++j) begin_[j + 1] = begin_[j] + (copies ? copies[j] : 1);
  copies_.resize(begin_[columns]);
  for (Scratch& scratch : scratch_) scratch.costs.resize(padded_);
  if (!lists_ || row_count * padded_ <= rows.kept_at_once()) keep();
  parent_.resize(padded_);
  parent_cost_.resize(padded_);
  if (!lists_) return;
  list_columns_.resize(row_count * listed_);
  list_costs_.resize(row_count * listed_);
  list_counts_.assign(row_count, 0);
  list_bounds_.assign(row_count, INT_MIN);
  for (Scratch& scratch : scratch_) {
    scratch.reduced.resize(padded_);
    scratch.near.resize(padded_ + 16);
  }
  if (!rows.boxes()) return;
  for (Scratch& scratch : scratch_) scratch.bounds.resize(rows.boxes()->boxes.stride);
  for (Scratch& scratch : scratch_) scratch.visited.resize(padded_ / BOX);
  box_prices_.resize(rows.boxes()->boxes.stride);
}

// A copy of rows that will be looked at again and again.
void Solver::keep() {
  if (kept_ || row_count_ * padded_ > MOST_KEPT) return;
  auto kept = std::make_unique<KeptRows>(row_count_, padded_);
  each_row(team_, control_, thread_, row_count_, padded_,
           [&](int64_t i, int) { rows_.row(i, kept->at(i)); });
  kept_ = std::move(kept);
}

// That so many rows are looked at. Lists, where they last, leave few to look at twice.
void Solver::look_at(int64_t rows) {
  looked_at_ += rows;
  if (looked_at_ > KEPT_AFTER * row_count_ && rows_.kept_at_once() > 0) keep();
}

std::vector<int32_t> Solver::lowest_costs() {
  std::vector<int32_t> lowest(padded_, INT_MAX);
  for (int64_t i = 0; i < row_count_; ++i) {
    kernels_.lower(whole_row(i, 0), 0, padded_, lowest.data());
    work(padded_);
  }
  return lowest;
}

void Solver::work(int64_t elements) {
  elements_ += elements;
  if (elements_ < POLL_ELEMENTS) return;
  elements_ = 0;
  control_.poll(thread_);
}

void Solver::solve(std::vector<int32_t>& prices, int32_t first, int32_t last) {
  if (prices.empty()) prices = lowest_costs();
  price_ = prices.data();
  std::fill(price_ + columns_, price_ + padded_, PADDING_PRICE);
  int32_t epsilon = std::max(first, last), coarser = 0;
  bool may_jump = true;
  for (;;) {
    const int64_t before = bids_;
    rebase();
    raise_boxes();
    release(epsilon);
    const bool finished = phase(epsilon, coarser ? LONG_JUMP : MOST_BIDS);
    if (coarser && !finished) {  // back to small steps: ties make a war of prices
      epsilon = std::max(last, std::exchange(coarser, 0) / FACTOR);
      may_jump = false;
      continue;
    }
    if (epsilon == last) break;
    const bool quiet = epsilon < first && bids_ - before < QUIET * row_count_;
    if (quiet && may_jump) coarser = epsilon;
    epsilon = coarser ? last : std::max(last, epsilon / FACTOR);
  }
  for (; waiting_; --waiting_, head_ = (head_ + 1) % row_count_) augment(queue_[head_]);
  if (lists_) rebuilt_.assign(row_count_, 0);
}

// The highest price of each box; boxes of padding are never looked at.
void Solver::raise_boxes() {
  for (size_t b = 0; b < box_prices_.size(); ++b) {
    const int64_t begin = b * BOX, end = std::min(begin + BOX, columns_);
    box_prices_[b] = begin < end ? *std::max_element(price_ + begin, price_ + end) : -8 * RANGE;
  }
}

void Solver::rebase() {
  const auto [low, high] = std::minmax_element(price_, price_ + columns_);
  if (*low >= -2 * RANGE && *high <= RANGE) return;
  const int32_t shift = *high;
  for (int64_t j = 0; j < columns_; ++j) price_[j] -= shift;
  for (int32_t& bound : list_bounds_)
    if (bound != INT_MIN && bound != INT_MAX) bound += shift;
}

// Frees the rows that could do better by more than epsilon, as far as their lists tell.
void Solver::release(int32_t epsilon) {
  head_ = waiting_ = 0;
  for (int64_t i = 0; i < row_count_; ++i) {
    if (match_[i] >= 0) {
      int32_t lowest;
      if (lists_) {
        lowest = std::min(listed(i).first, list_bounds_[i]);
      } else {
        work(padded_);
        lowest = kernels_.best_two(whole_row(i, 0), price_, padded_).first;
      }
      if (match_cost_[i] - price_[match_[i]] - lowest <= epsilon) continue;
      match_[i] = -1;
    }
    queue_[waiting_++] = static_cast<int32_t>(i);
  }
  hand_out();
}

// Copies, at their column's price, to the rows that have the column.
void Solver::hand_out() {
  for (int64_t j = 0; j < columns_; ++j) {
    free_[j] = static_cast<int32_t>(begin_[j + 1] - begin_[j]);
    for (int64_t k = begin_[j]; k < begin_[j + 1]; ++k) copies_[k] = {price_[j], -1};
  }
  // Those without an owner come first, and then rows in order: a heap.
  for (int64_t i = row_count_ - 1; i >= 0; --i) {
    const int32_t j = match_[i];
    if (j >= 0) copies_[begin_[j] + --free_[j]].owner = static_cast<int32_t>(i);
  }
}

// The column's dearest copy to `row`; returns the row that had it, or -1.
int32_t Solver::sell(int32_t column, int32_t row, int32_t increment) {
  Copy* first = &copies_[begin_[column]];
  Copy* last = &copies_[begin_[column + 1] - 1];
  std::pop_heap(first, last + 1);
  const int32_t previous = last->owner;
  *last = {last->price - increment, row};
  std::push_heap(first, last + 1);
  price_[column] = first->price;
  free_[column] -= previous < 0;
  return previous;
}

// False if that took too many bids.
bool Solver::phase(int32_t epsilon, int64_t most_bids) {
  const int64_t stop =
      std::max(std::min(FEW, row_count_ / 32), static_cast<int64_t>(row_count_ * PHASE_ENDS));
  int64_t fewest = waiting_, since = 0;
  for (int64_t left = most_bids * row_count_; waiting_ > stop; --left) {
    if (waiting_ < fewest) {
      fewest = waiting_;
      since = 0;
    }
    if (left == 0 || ++since > PATIENCE * row_count_) return false;
    const int32_t row = queue_[head_];
    head_ = head_ + 1 == row_count_ ? 0 : head_ + 1;
    --waiting_;
    const Best found = best(row, epsilon / 2);
    const int32_t j = found.column;
    match_cost_[row] = found.first + price_[j];
    const int32_t previous = sell(j, row, found.second - found.first + epsilon);
    match_[row] = j;
    if (previous >= 0) {
      match_[previous] = -1;
      const int64_t tail = head_ + waiting_++;
      queue_[tail >= row_count_ ? tail - row_count_ : tail] = previous;
    }
    if (++bids_ % row_count_) continue;
    by_rows_ = static_cast<double>(stale_bids_) > MOST_STALE * static_cast<double>(row_count_);
    stale_bids_ = 0;
  }
  return true;
}

int64_t Solver::candidates(int64_t row, int32_t slack, int thread, int32_t* columns) {
  if (!lists_) return 0;
  // Of points in boxes, or of a row that is kept, a new list is found sooner than what it would
  // tell in float64. Prices don't change any more.
  if ((rows_.boxes() || kept_) && !rebuilt_[row] && stale(row, listed(row), -slack)) {
    build(row, thread);
    rebuilt_[row] = true;
  }
  const int64_t highest = int64_t{listed(row).first} + slack;
  if (highest >= list_bounds_[row]) return 0;
  int64_t count = 0;
  for (int64_t k = row * listed_; k < row * listed_ + list_counts_[row]; ++k)
    if (list_costs_[k] - price_[list_columns_[k]] <= highest) columns[count++] = list_columns_[k];
  return count;
}

Best Solver::listed(int64_t row) const {
  return kernels_.best_listed(&list_columns_[row * listed_], &list_costs_[row * listed_], price_,
                              list_counts_[row]);
}

// Whether some column left out may be better than the best one listed by more than `slack`.
bool Solver::stale(int64_t row, const Best& best, int32_t slack) const {
  return static_cast<int64_t>(best.first) - slack > list_bounds_[row];
}

// The best column up to `slack`, and a lower bound of what the others cost.
Best Solver::best(int64_t row, int32_t slack) {
  if (!lists_) {
    work(padded_);
    return kernels_.best_two(whole_row(row, 0), price_, padded_);
  }
  Best found = listed(row);
  if (stale(row, found, slack)) {
    ++stale_bids_;
    if (by_rows_) {
      work(padded_);
      look_at(1);
      return kernels_.best_two(whole_row(row, 0), price_, padded_);
    }
    build_ahead(row, slack);
    found = listed(row);
  }
  work(listed_);
  found.second = std::min(found.second, list_bounds_[row]);
  return found;
}

// Builds the list of `row` and, together on all threads, those of rows soon to bid that need it.
// How far to look ahead does not depend on the number of threads, so neither does the result.
void Solver::build_ahead(int64_t row, int32_t slack) {
  stale_.assign(1, static_cast<int32_t>(row));
  const int64_t look = std::min(ahead_, waiting_);
  for (int64_t k = 0; k < look; ++k) {
    const int64_t at = head_ + k;
    const int32_t next = queue_[at >= row_count_ ? at - row_count_ : at];
    if (stale(next, listed(next), slack)) stale_.push_back(next);
  }
  const int64_t count = stale_.size();
  ahead_ = 2 * count > ahead_ ? std::min<int64_t>(2 * ahead_, MOST_AHEAD)
                              : std::max<int64_t>(ahead_ / 2, 1);
  team_.each(count, 4, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t k = begin; k < end; ++k) build(stale_[k], thread);
  });
  work(count * padded_);
  if (!rows_.boxes()) look_at(count);
}

}  // namespace fastgen::assignment
