// Shortest augmenting paths (Jonker and Volgenant 1987) in reduced costs, those below zero (by at
// most epsilon, after an auction) taken as zero.
#include <algorithm>
#include <climits>
#include <utility>

#include "assignment/solver.h"

namespace fastgen::assignment {
namespace {

// Among so many points or fewer, or rows that are kept, a search that has looked at so many whole
// rows, lists having ended twice, looks at no more lists.
constexpr int64_t WHOLE_UP_TO = 8192, MOST_WHOLE = 32;

bool later(const Nearest& a, const Nearest& b) {
  return a.dist != b.dist ? a.dist > b.dist : a.column > b.column;
}

void push(std::vector<Nearest>& heap, int32_t dist, int32_t what) {
  heap.push_back({dist, what});
  std::push_heap(heap.begin(), heap.end(), later);
}

Nearest pop(std::vector<Nearest>& heap) {
  std::pop_heap(heap.begin(), heap.end(), later);
  const Nearest first = heap.back();
  heap.pop_back();
  return first;
}

}  // namespace

void Solver::augment(int32_t root) {
  dist_.assign(padded_, INT_MIN);
  std::fill_n(dist_.begin(), columns_, INT_MAX);
  done_.clear();
  whole_ = !lists_;
  const Nearest end = lists_ ? search_lists(root) : search_rows(root);
  // The path ends at distance end.dist. Columns that are nearer get dearer by what they are nearer
  // by, so that each row on the path finds its new column as cheap as its old one.
  for (const Nearest& passed : done_) price_[passed.column] -= end.dist - passed.dist;
  int32_t leaves = -1;  // the row whose copy is taken: none, of the last column
  --free_[end.column];
  for (int32_t j = end.column;;) {
    const int32_t i = parent_[j], next = match_[i];
    Copy* copy = &copies_[begin_[j]];
    while (copy->owner != leaves) ++copy;
    copy->owner = leaves = i;
    match_[i] = j;
    match_cost_[i] = whole_ ? whole_row(i, 0)[j] : parent_cost_[j];
    if (i == root) return;
    j = next;
  }
}

// Dijkstra over whole rows.
Nearest Solver::search_rows(int32_t root) {
  const int32_t* costs = whole_row(root, 0);
  const int32_t offset = kernels_.best_two(costs, price_, padded_).first;
  work(padded_);
  return search_rows_from(relax_row({root, 0, offset, false}));
}

// What is left of the search, given the nearest column not done.
Nearest Solver::search_rows_from(Nearest near) {
  while (!free_[near.column]) {
    done_.push_back(near);
    const auto [base, column] = near;
    dist_[column] = INT_MIN;
    for (int64_t k = begin_[column]; k < begin_[column + 1]; ++k) {
      const int32_t row = copies_[k].owner;
      near = relax_row({row, base, match_cost_[row] - price_[column], false});
    }
  }
  return near;
}

Nearest Solver::relax_row(const Branch& branch) {
  work(padded_);
  look_at(1);
  return kernels_.relax(whole_row(branch.row, 0), price_, padded_, branch.offset, branch.base,
                        branch.row, dist_.data(), parent_.data());
}

// Dijkstra over lists. What a list leaves out is looked at only if the search gets as far as the
// list's bound: then in a new list, and then in the whole row.
Nearest Solver::search_lists(int32_t root) {
  branches_.clear();
  near_.clear();
  beyond_.clear();
  Nearest end{INT_MAX, -1};
  const auto relax = [&](const Branch& branch, int32_t j, int32_t cost) {
    const int32_t dist = branch.base + std::max(cost - price_[j] - branch.offset, 0);
    if (dist >= dist_[j] || dist >= end.dist) return;
    dist_[j] = dist;
    parent_[j] = branch.row;
    parent_cost_[j] = cost;
    if (free_[j])
      end = {dist, j};
    else
      push(near_, dist, j);
  };
  const auto scan_list = [&](int32_t index) {
    const Branch branch = branches_[index];
    const int32_t* columns = &list_columns_[branch.row * listed_];
    const int32_t* costs = &list_costs_[branch.row * listed_];
    int32_t nearer[MOST_LISTED + 16];
    const int64_t count =
        kernels_.nearer_listed(columns, costs, price_, list_counts_[branch.row], branch.offset,
                               branch.base, dist_.data(), end.dist, nearer);
    for (int64_t k = 0; k < count; ++k) relax(branch, columns[nearer[k]], costs[nearer[k]]);
    work(listed_);
    if (list_bounds_[branch.row] == INT_MAX) return;
    const int32_t bound = branch.base + std::max(list_bounds_[branch.row] - branch.offset, 0);
    if (bound < end.dist) push(beyond_, bound, index);
  };
  const auto scan_row = [&](const Branch& branch) {
    look_at(1);
    int32_t *reduced = scratch_[0].reduced.data(), *near = scratch_[0].near.data();
    const int32_t* costs = whole_row(branch.row, 0);
    kernels_.reduce(costs, price_, padded_, groups_, reduced);
    // Nothing at end.dist or beyond is of use.
    const int32_t useful =
        end.dist == INT_MAX ? PADDING_COST : end.dist - branch.base + branch.offset;
    const int64_t count = kernels_.collect(reduced, padded_, useful, near);
    for (int64_t k = 0; k < count && near[k] < columns_; ++k)
      relax(branch, near[k], costs[near[k]]);
    work(2 * padded_);
  };

  branches_.push_back({root, 0, best(root, 0).first, false});
  scan_list(0);
  const int64_t most = columns_ <= WHOLE_UP_TO || kept_ ? MOST_WHOLE : row_count_;
  for (int64_t whole = 0; whole < most;) {
    const bool is_bound =
        !beyond_.empty() && (near_.empty() || beyond_.front().dist <= near_.front().dist);
    std::vector<Nearest>& heap = is_bound ? beyond_ : near_;
    if (heap.empty() || heap.front().dist >= end.dist) return end;
    const auto [dist, what] = pop(heap);
    if (is_bound) {
      Branch& branch = branches_[what];
      if (std::exchange(branch.rebuilt, true)) {
        scan_row(branch);
        ++whole;
      } else {
        build(branch.row, 0);
        scan_list(what);
      }
    } else if (dist == dist_[what]) {
      done_.push_back({dist, what});
      dist_[what] = INT_MIN;
      for (int64_t k = begin_[what]; k < begin_[what + 1]; ++k) {
        const int32_t row = copies_[k].owner;
        branches_.push_back({row, dist, match_cost_[row] - price_[what], false});
        scan_list(static_cast<int32_t>(branches_.size()) - 1);
      }
    }
  }
  whole_ = true;
  Nearest near{};
  for (const Branch& branch : branches_) near = relax_row(branch);
  return search_rows_from(near);
}

}  // namespace fastgen::assignment
