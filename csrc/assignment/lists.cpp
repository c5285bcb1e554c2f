// Lists of near columns: those below a bound when the list was made. Prices only fall, so that the
// columns left out stay at the bound or above.
#include <algorithm>
#include <climits>

#include "assignment/solver.h"

namespace fastgen::assignment {
namespace {

// So many times as many columns as a list has are more than it takes to choose them.
constexpr int64_t LOOSE = 4;

// Keeps the `most` nearest of `count` positions with reduced <= highest; the others are at `bound`
// or above. Of those at `highest` each row takes others: with one choice for all, rows of the same
// costs would bid for the same few columns.
int64_t nearest(const int32_t* reduced, int32_t* near, int64_t count, int64_t most, int64_t row,
                int32_t highest, int32_t* bound) {
  *bound = highest + 1;
  if (count <= most) return count;
  const int64_t below =
      std::partition(near, near + count, [&](int32_t at) { return reduced[at] < highest; }) - near;
  if (below > most) {
    std::nth_element(near, near + most, near + below, [&](int32_t a, int32_t b) {
      return reduced[a] != reduced[b] ? reduced[a] < reduced[b] : a < b;
    });
    *bound = reduced[near[most]];
    return most;
  }
  const int64_t equal = count - below, wanted = most - below;
  const int64_t start = static_cast<uint32_t>(row) * 2654435761u % equal;
  if (start + wanted <= equal)
    std::copy_n(near + below + start, wanted, near + below);
  else
    std::rotate(near + below, near + below + start, near + count);
  *bound = highest;
  return most;
}

// Columns of the same class may be of one kind, and those of the kinds that are far then make the
// bound a loose one. A lower one for some `wanted` of the `count` at hand, by some of them.
int32_t lower_bound(const int32_t* reduced, const int32_t* near, int64_t count, int64_t wanted) {
  constexpr int64_t SOME = 32;
  int32_t some[SOME];
  for (int64_t k = 0; k < SOME; ++k) some[k] = reduced[near[k * count / SOME]];
  int32_t* bound = some + SOME * wanted / count;
  std::nth_element(some, bound, some + SOME);
  return *bound;
}

}  // namespace

void Solver::build(int64_t row, int thread) {
  int32_t* columns = &list_columns_[row * listed_];
  int32_t* costs = &list_costs_[row * listed_];
  // The first list may be known: no other columns matter while no price is above zero.
  const bool first = list_bounds_[row] == INT_MIN;
  int64_t count = first ? rows_.cheap(row, listed_, columns, costs) : 0;
  if (count > 0)
    list_bounds_[row] = RANGE;
  else
    count = rows_.boxes() ? list_from_boxes(row, thread, columns, costs)
                          : list_from_row(row, thread, columns, costs);
  for (; count % 16; ++count) {
    columns[count] = 0;
    costs[count] = PADDING_COST + 2 * RANGE;
  }
  list_counts_[row] = static_cast<int32_t>(count);
}

int64_t Solver::list_from_row(int64_t row, int thread, int32_t* columns, int32_t* list_costs) {
  Scratch& scratch = scratch_[thread];
  int32_t *reduced = scratch.reduced.data(), *near = scratch.near.data();
  const int32_t* costs = whole_row(row, thread);
  int32_t highest = kernels_.reduce(costs, price_, padded_, groups_, reduced);
  int64_t count = kernels_.collect(reduced, padded_, highest, near);
  if (count >= LOOSE * listed_) {
    highest = lower_bound(reduced, near, count, 2 * listed_);
    count = kernels_.collect(reduced, padded_, highest, near);
  }
  count = nearest(reduced, near, count, listed_, row, highest, &list_bounds_[row]);
  for (int64_t k = 0; k < count; ++k) {
    columns[k] = near[k];
    list_costs[k] = costs[near[k]];
  }
  return count;
}

int64_t Solver::list_from_boxes(int64_t row, int thread, int32_t* columns, int32_t* list_costs) {
  Scratch& scratch = scratch_[thread];
  const BoxedPoints& boxed = *rows_.boxes();
  const int64_t boxes = boxed.boxes.stride;
  const float* at = boxed.rows + row * boxed.points.dims;
  int32_t* bounds = scratch.bounds.data();
  kernels_.box_bounds(boxed.boxes, boxed.points.dims, at, boxed.root, box_prices_.data(), bounds);
  // Costs and reduced costs are compact, in the order of the visits.
  int32_t *costs = scratch.costs.data(), *reduced = scratch.reduced.data();
  int32_t *near = scratch.near.data(), *visited = scratch.visited.data();
  int32_t lowest[BOX];
  std::fill_n(lowest, BOX, INT_MAX);
  int32_t highest = INT_MAX;
  int64_t visits = 0;
  const auto visit = [&](int32_t box) {
    const int64_t begin = box * BOX, seen = visits * BOX;
    highest =
        kernels_.visit_box(boxed.points, at, boxed.root, begin, std::min(BOX, columns_ - begin),
                           price_, groups_, costs + seen, reduced + seen, lowest);
    visited[visits++] = box;
    bounds[box] = INT_MAX;
  };
  // The most promising boxes first; soon the bound is good enough to try the rest in order.
  for (int first = 0; first < 3; ++first) {
    const Nearest box = kernels_.lowest_bound(bounds, boxes);
    if (box.dist > highest) break;
    visit(box.column);
  }
  const int64_t rest = kernels_.collect(bounds, boxes, highest, near);
  for (int64_t k = 0; k < rest; ++k)
    if (bounds[near[k]] <= highest) visit(near[k]);

  int64_t count = kernels_.collect(reduced, visits * BOX, highest, near);
  count = nearest(reduced, near, count, listed_, row, highest, &list_bounds_[row]);
  for (int64_t k = 0; k < count; ++k) {
    columns[k] = static_cast<int32_t>(visited[near[k] / BOX] * BOX + near[k] % BOX);
    list_costs[k] = costs[near[k]];
  }
  return count;
}

}  // namespace fastgen::assignment
