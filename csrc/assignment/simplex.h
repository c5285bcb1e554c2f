// The network simplex method on the complete bipartite graph (Dantzig 1951; strongly feasible trees
// of Cunningham 1976, which do not cycle). Potentials are integers of L limbs in units of 2^unit,
// so that the optimum found is one. Arcs are priced in float64; where its rounding leaves the sign
// of a reduced cost open, in integers.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "assignment/transport.h"
#include "assignment/wide.h"

namespace fastgen::assignment {

template <int L>
class Simplex {
 public:
  // In float64 numbers are looked at times 2^scale, so that sums of them are finite.
  Simplex(const Transport& problem, int unit, int scale, Control& control, int thread)
      : problem_(problem),
        unit_(unit),
        scale_(scale),
        factor_(std::ldexp(1.0, scale)),
        control_(control),
        thread_(thread),
        columns_(problem.columns),
        left_(problem.demand, problem.demand + problem.columns),
        scratch_(problem.columns) {
    for (const int64_t amount : left_) spare_ += amount;
    for (int64_t i = 0; i < problem.rows; ++i) spare_ -= problem.supply[i];
    // A last row of costs 0 supplies what no row does.
    rows_ = problem.rows + (spare_ > 0);
    root_ = static_cast<int32_t>(rows_ + columns_);
    nodes_.resize(root_ + 1);
    exact_.assign(root_ + 1, Number{});
    near_.assign(root_ + 1, 0.0);
  }

  Shipment run() {
    start();
    // Blocks of arcs, each of one row, in turn: the best arc of a block enters.
    const int64_t size = static_cast<int64_t>(std::sqrt(double(rows_) * double(columns_))) + 1;
    const int64_t blocks = (columns_ + size - 1) / size;
    int64_t settled = 0;
    for (int64_t row = 0; settled < rows_ * blocks; row = row + 1 == rows_ ? 0 : row + 1) {
      const double* cost = costs(row);
      for (int64_t begin = 0; begin < columns_; begin += size) {
        work(size);
        ++settled;
        Entering entering;
        if (!price(row, cost, begin, std::min(begin + size, columns_), &entering)) continue;
        pivot(static_cast<int32_t>(row), column_node(entering.column), entering.reduced);
        settled = 0;
      }
    }
    return result();
  }

 private:
  using Number = Wide<L>;
  struct Node {
    int32_t parent = -1, child = -1, next = -1, previous = -1, depth = 0;
    bool up = false;   // whether the arc to the parent points there
    int64_t flow = 0;  // on that arc
  };
  struct Entering {
    int64_t column = -1;
    Number reduced;
  };
  using Amounts = std::vector<std::vector<std::pair<int32_t, int64_t>>>;

  int32_t column_node(int64_t j) const { return static_cast<int32_t>(rows_ + j); }
  bool is_row(int32_t node) const { return node < rows_; }
  Number number(double x) const { return Number::from(x, unit_); }
  void set(int32_t node, const Number& value) {
    exact_[node] = value;
    near_[node] = value.times_power(unit_ + scale_);
  }

  const double* costs(int64_t row) {
    if (row < problem_.rows) return problem_.costs->row(row, scratch_.data());
    std::fill(scratch_.begin(), scratch_.end(), 0.0);
    return scratch_.data();
  }

  void work(int64_t elements) {
    constexpr int64_t POLL_ELEMENTS = int64_t{1} << 22;
    if ((elements_ += elements) < POLL_ELEMENTS) return;
    elements_ = 0;
    control_.poll(thread_);
  }

  // The row's cheapest columns next to what they cost others, as far as they are not taken. No
  // circle arises: of all columns that are connected so far at most one has something left.
  void fill(int64_t row, std::vector<std::pair<int32_t, int64_t>>* cells) {
    const double* cost = costs(row);
    for (int64_t amount = problem_.supply[row]; amount > 0;) {
      int64_t best = -1;
      double lowest = std::numeric_limits<double>::infinity();
      for (int64_t j = 0; j < columns_; ++j) {
        const double above = cost[j] * factor_ - mean_[j];
        if (left_[j] == 0 || (best >= 0 && above >= lowest)) continue;
        best = j;
        lowest = above;
      }
      const int64_t given = std::min(amount, left_[best]);
      cells->push_back({static_cast<int32_t>(best), given});
      left_[best] -= given;
      amount -= given;
      work(columns_);
    }
  }

  void start() {
    Amounts of_row(rows_), of_column(columns_);
    if (!problem_.match) {
      mean_.assign(columns_, 0.0);
      for (int64_t i = 0; i < problem_.rows; ++i) {
        const double* cost = costs(i);
        for (int64_t j = 0; j < columns_; ++j)
          mean_[j] += cost[j] * factor_ / static_cast<double>(problem_.rows);
      }
    }
    for (int64_t i = 0; i < problem_.rows; ++i) {
      if (!problem_.match) {
        fill(i, &of_row[i]);
        continue;
      }
      of_row[i].push_back({problem_.match[i], 1});
      --left_[problem_.match[i]];
    }
    for (int32_t j = 0; spare_ > 0 && j < columns_; ++j)
      if (left_[j] > 0) of_row[rows_ - 1].push_back({j, left_[j]});
    for (int32_t i = 0; i < rows_; ++i)
      for (const auto& [j, amount] : of_row[i]) of_column[j].push_back({i, amount});
    if (spare_ > 0) hang(static_cast<int32_t>(rows_ - 1), of_row, of_column);
    for (int32_t i = 0; i < rows_; ++i) hang(i, of_row, of_column);
  }

  // Cells that carry something make trees. Each hangs by a row from the root, on an arc that
  // carries nothing, now or later, and points there.
  void hang(int32_t first, const Amounts& of_row, const Amounts& of_column) {
    if (nodes_[first].parent >= 0) return;
    const bool given = problem_.row_duals && first < problem_.rows;
    set(first, number(given ? problem_.row_duals[first] : 0));
    link(first, root_, true, 0);
    std::vector<int32_t> waiting{first};
    while (!waiting.empty()) {
      const int32_t i = waiting.back(), from = nodes_[i].parent;
      waiting.pop_back();
      const double* cost = costs(i);
      work(columns_);
      if (from != root_) set(i, number(cost[from - rows_]) - exact_[from]);
      for (const auto& [j, amount] : of_row[i]) {
        const int32_t node = column_node(j);
        if (node == from) continue;
        set(node, number(cost[j]) - exact_[i]);
        link(node, i, false, amount);
        for (const auto& [below, more] : of_column[j]) {
          if (below == i) continue;
          link(below, node, true, more);
          waiting.push_back(below);
        }
      }
    }
  }

  // Whether some reduced cost of the row's columns from `first` on is below zero, and the lowest,
  // as near as float64 tells.
  bool price(int64_t row, const double* cost, int64_t first, int64_t last, Entering* found) const {
    constexpr int64_t STRIP = 64;
    const double* prices = &near_[rows_];
    const double own = near_[row], size = std::abs(own);
    double lowest = 0;
    for (int64_t begin = first; begin < last; begin += STRIP) {
      const int64_t end = std::min(begin + STRIP, last);
      bool any = false;
      for (int64_t j = begin; j < end; ++j) {
        const double scaled = cost[j] * factor_;
        any |= scaled - prices[j] - own < rounding(scaled, prices[j], size);
      }
      for (int64_t j = begin; any && j < end; ++j) {
        const double scaled = cost[j] * factor_, most = rounding(scaled, prices[j], size);
        double reduced = scaled - prices[j] - own;
        if (reduced >= std::min(most, lowest + most)) continue;
        Number exact = number(cost[j]);
        exact -= exact_[column_node(j)];
        exact -= exact_[row];
        if (!exact.negative()) continue;
        reduced = exact.times_power(unit_ + scale_);
        if (found->column >= 0 && reduced >= lowest) continue;
        lowest = reduced;
        *found = {j, exact};
      }
    }
    return found->column >= 0;
  }

  // No less than what rounding does to cost - price - size.
  static double rounding(double cost, double price, double size) {
    return 0x1p-49 * (std::abs(cost) + std::abs(price) + size) + 0x1p-1060;
  }

  // The arc from a row to a column enters the tree, and another that carries as little leaves.
  void pivot(int32_t row, int32_t column, const Number& reduced) {
    int32_t a = row, b = column;
    while (a != b) (nodes_[a].depth >= nodes_[b].depth ? a : b) = deeper_parent(a, b);
    const int32_t join = a;
    // The last blocking arc, along the circle from the join on: the tree stays strongly feasible.
    int64_t amount = std::numeric_limits<int64_t>::max();
    int32_t leaving = -1;
    bool by_row = true;
    for (int32_t k = row; k != join; k = nodes_[k].parent)
      if (nodes_[k].up && nodes_[k].flow < amount) amount = nodes_[leaving = k].flow;
    for (int32_t k = column; k != join; k = nodes_[k].parent)
      if (!nodes_[k].up && nodes_[k].flow <= amount) {
        amount = nodes_[leaving = k].flow;
        by_row = false;
      }
    if (amount > 0) {
      for (int32_t k = row; k != join; k = nodes_[k].parent)
        nodes_[k].flow += nodes_[k].up ? -amount : amount;
      for (int32_t k = column; k != join; k = nodes_[k].parent)
        nodes_[k].flow += nodes_[k].up ? amount : -amount;
    }
    const int32_t top = by_row ? row : column;
    rehang(top, by_row ? column : row, leaving, by_row, amount);
    shift(top, by_row, reduced);
  }

  int32_t deeper_parent(int32_t a, int32_t b) const {
    return nodes_[nodes_[a].depth >= nodes_[b].depth ? a : b].parent;
  }

  // What hung from `leaving` hangs by `node` from `parent`.
  void rehang(int32_t node, int32_t parent, int32_t leaving, bool up, int64_t flow) {
    for (;;) {
      const Node old = nodes_[node];
      unlink(node);
      link(node, parent, up, flow);
      if (node == leaving) return;
      parent = std::exchange(node, old.parent);
      up = !old.up;
      flow = old.flow;
    }
  }

  void link(int32_t node, int32_t parent, bool up, int64_t flow) {
    Node& own = nodes_[node];
    own.parent = parent;
    own.up = up;
    own.flow = flow;
    own.depth = nodes_[parent].depth + 1;
    own.previous = -1;
    own.next = nodes_[parent].child;
    if (own.next >= 0) nodes_[own.next].previous = node;
    nodes_[parent].child = node;
  }

  void unlink(int32_t node) {
    const Node& own = nodes_[node];
    (own.previous >= 0 ? nodes_[own.previous].next : nodes_[own.parent].child) = own.next;
    if (own.next >= 0) nodes_[own.next].previous = own.previous;
  }

  // Potentials below `top`, where those of rows change by `by`, or those of columns.
  void shift(int32_t top, bool of_rows, const Number& by) {
    const Number less = Number{} - by;
    int64_t visited = 0;
    for (int32_t node = top;;) {
      ++visited;
      nodes_[node].depth = nodes_[nodes_[node].parent].depth + 1;
      set(node, exact_[node] + (is_row(node) == of_rows ? by : less));
      if (nodes_[node].child >= 0) {
        node = nodes_[node].child;
        continue;
      }
      while (node != top && nodes_[node].next < 0) node = nodes_[node].parent;
      if (node == top) break;
      node = nodes_[node].next;
    }
    work(8 * visited);
  }

  Shipment result() {
    Shipment out{{}, std::vector<double>(problem_.rows), std::vector<double>(columns_), 0, 0};
    Sum sum;
    std::vector<Cell> cells;
    for (int32_t k = 0; k < root_; ++k) {
      const Node& node = nodes_[k];
      if (node.parent == root_ || node.flow == 0) continue;
      const int32_t row = is_row(k) ? k : node.parent, column = is_row(k) ? node.parent : k;
      if (row < problem_.rows) cells.push_back({row, column - rows_, node.flow});
    }
    std::sort(cells.begin(), cells.end(), [](const Cell& a, const Cell& b) {
      return a.row != b.row ? a.row < b.row : a.column < b.column;
    });
    for (const Cell& cell : cells) sum.add(costs(cell.row)[cell.column], cell.amount);
    out.cells = std::move(cells);
    out.cost = sum.value();
    out.rounding = sum.distance(out.cost);
    // A constant between rows and columns: the last row's is 0, or else some middle column's.
    Number constant = exact_[rows_ - 1];
    if (spare_ == 0) {
      std::vector<int32_t> order(columns_);
      for (int64_t j = 0; j < columns_; ++j) order[j] = column_node(j);
      const auto middle = order.begin() + columns_ / 2;
      std::nth_element(order.begin(), middle, order.end(),
                       [&](int32_t a, int32_t b) { return near_[a] < near_[b]; });
      constant = Number{} - exact_[*middle];
    }
    for (int64_t i = 0; i < problem_.rows; ++i)
      out.rows[i] = (exact_[i] - constant).times_power(unit_);
    for (int64_t j = 0; j < columns_; ++j)
      out.columns[j] = (exact_[column_node(j)] + constant).times_power(unit_);
    return out;
  }

  const Transport& problem_;
  const int unit_, scale_;
  const double factor_;
  Control& control_;
  const int thread_;
  const int64_t columns_;
  std::vector<int64_t> left_;  // of the demands
  std::vector<double> scratch_, mean_;
  int64_t rows_ = 0, spare_ = 0, elements_ = 0;
  int32_t root_ = 0;
  // Rows, columns and the root. Of potentials the exact ones and those times 2^scale, rounded.
  std::vector<Node> nodes_;
  std::vector<Number> exact_;
  std::vector<double> near_;
};

}  // namespace fastgen::assignment
