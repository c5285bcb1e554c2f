// Shortest augmenting paths (Jonker and Volgenant 1987) in reduced costs, those below zero (by at
// most epsilon, after an auction) taken as zero.
#include <algorithm>
#include <climits>
#include <functional>

#include "assignment/solver.h"

namespace fastgen::assignment {

void Solver::augment(int32_t root) {
  dist_.assign(padded_, INT_MIN);
  std::fill_n(dist_.begin(), columns_, INT_MAX);
  done_.clear();
  const Nearest end = lists_ ? search_lists(root) : search_rows(root);
  for (const Nearest& passed : done_) price_[passed.column] -= end.dist - passed.dist;
  int32_t leaves = -1;  // the row whose copy is taken: none, of the last column
  --free_[end.column];
  for (int32_t j = end.column;;) {
    const int32_t i = parent_[j], next = match_[i];
    Copy* copy = &copies_[begin_[j]];
    while (copy->owner != leaves) ++copy;
    copy->owner = leaves = i;
    match_[i] = j;
    if (lists_) match_cost_[i] = parent_cost_[j];
    if (i == root) return;
    j = next;
  }
}

// Dijkstra over whole rows.
Nearest Solver::search_rows(int32_t root) {
  const int32_t* costs = rows_.row(root, scratch_[0].costs.data());
  const int32_t offset = kernels_.best_two(costs, price_, padded_).first;
  work(2 * padded_);
  Nearest near = kernels_.relax(costs, price_, padded_, offset, 0, root, dist_.data(),
                                parent_.data());
  while (!free_[near.column]) {
    done_.push_back(near);
    const auto [base, column] = near;
    dist_[column] = INT_MIN;
    for (int64_t k = begin_[column]; k < begin_[column + 1]; ++k) {
      const int32_t row = copies_[k].owner;
      costs = rows_.row(row, scratch_[0].costs.data());
      near = kernels_.relax(costs, price_, padded_, costs[column] - price_[column], base, row,
                            dist_.data(), parent_.data());
      work(padded_);
    }
  }
  return near;
}

// Dijkstra over lists. What a list leaves out is looked at only if the search gets as far as the
// list's bound: then in a new list, and then in the whole row.
Nearest Solver::search_lists(int32_t root) {
  struct Tree {
    int32_t row, base, offset, expansions;
  };
  std::vector<Tree> trees;
  heap_.clear();
  Nearest end{INT_MAX, -1};
  const auto push = [&](int32_t dist, int32_t what) {
    heap_.emplace_back(dist, what);
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  };
  const auto relax = [&](const Tree& tree, int32_t j, int32_t cost) {
    const int32_t slack = cost - price_[j] - tree.offset;
    const int32_t dist = tree.base + std::max(slack, 0);
    if (dist >= dist_[j] || dist >= end.dist) return;
    dist_[j] = dist;
    parent_[j] = tree.row;
    parent_cost_[j] = cost;
    if (free_[j])
      end = {dist, j};
    else
      push(dist, j);
  };
  const auto scan_list = [&](int32_t index) {
    const Tree tree = trees[index];
    const int64_t begin = tree.row * LIST, count = list_counts_[tree.row];
    for (int64_t k = begin; k < begin + count; ++k)
      relax(tree, list_columns_[k], list_costs_[k]);
    if (list_bounds_[tree.row] == INT_MAX) return;
    const int32_t beyond = tree.base + std::max(list_bounds_[tree.row] - tree.offset, 0);
    if (beyond < end.dist) push(beyond, ~index);
  };
  const auto scan_row = [&](const Tree& tree) {
    int32_t *reduced = scratch_[0].reduced.data(), *near = scratch_[0].near.data();
    const int32_t* costs = rows_.row(tree.row, scratch_[0].costs.data());
    kernels_.reduce(costs, price_, padded_, false, reduced);
    // Nothing at end.dist or beyond is of use.
    const int32_t useful = end.dist == INT_MAX ? PADDING_COST : end.dist - tree.base + tree.offset;
    const int64_t count = kernels_.collect(reduced, padded_, useful, near);
    for (int64_t k = 0; k < count; ++k)
      if (near[k] < columns_) relax(tree, near[k], costs[near[k]]);
    work(2 * padded_);
  };

  const int32_t offset = best(root, 0).first;
  trees.push_back({root, 0, offset, 0});
  scan_list(0);
  while (!heap_.empty() && heap_.front().first < end.dist) {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    const auto [dist, what] = heap_.back();
    heap_.pop_back();
    if (what < 0) {
      Tree& tree = trees[~what];
      if (tree.expansions++) {
        scan_row(tree);
      } else {
        build(tree.row, 0);
        scan_list(~what);
      }
      continue;
    }
    if (dist != dist_[what]) continue;
    work(LIST);
    done_.push_back({dist, what});
    dist_[what] = INT_MIN;
    for (int64_t k = begin_[what]; k < begin_[what + 1]; ++k) {
      const int32_t row = copies_[k].owner;
      trees.push_back({row, dist, match_cost_[row] - price_[what], 0});
      scan_list(static_cast<int32_t>(trees.size()) - 1);
    }
  }
  return end;
}

}  // namespace fastgen::assignment
