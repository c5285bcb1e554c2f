// Optimal transport between rows with supplies and columns with demands, exact for any finite
// float64 costs: the network simplex method, with potentials that are not rounded.
//
// For what the auction of solver.h, with its levels of the costs' range, does not settle: costs of
// very different sizes, and supplies that have no small common part.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "assignment/solver.h"

namespace fastgen::assignment {

class Costs {
 public:
  virtual ~Costs() = default;
  // Finite costs [columns], in place or written to `scratch`.
  virtual const double* row(int64_t i, double* scratch) const = 0;
};

struct Transport {
  int64_t rows, columns;
  // All of the supplies are shipped; demands may be more. Both are above 0.
  const int64_t *supply, *demand;
  const Costs* costs;
  // To start from, where each row supplies 1: columns of the rows and their dual variables; or
  // null.
  const int32_t* match;
  const double* row_duals;
};

struct Cell {
  int64_t row, column, amount;
};

struct Shipment {
  std::vector<Cell> cells;            // at most rows + columns - 1, in the order of rows
  std::vector<double> rows, columns;  // dual variables, rounded; <= 0 of columns with more demand
  double cost, rounding;              // the sum of costs, and how far it may be off
};

Shipment ship(const Transport& problem, Control& control, int thread);

// A sum that is rounded once; infinite where it does not fit.
class Sum {
 public:
  void add(double x) {
    const double next = sum_ + x, part = next - sum_;
    rest_ += (sum_ - (next - part)) + (x - part);
    sum_ = next;
    size_ += std::abs(x) * 0x1p-90;
  }
  // Of `count` times x.
  void add(double x, int64_t count) {
    if (count == 1) return add(x);
    const auto many = static_cast<double>(count);
    const double product = x * many;
    add(product);
    rest_ += std::fma(x, many, -product);
  }
  double value() const { return std::isfinite(sum_) ? sum_ + rest_ : sum_; }
  // How far `given` is from the sum; infinite where that does not fit.
  double distance(double given) const {
    const double off = std::abs((sum_ - given) + rest_) + size_;
    return off >= 0 ? off : std::numeric_limits<double>::infinity();
  }

 private:
  double sum_ = 0, rest_ = 0, size_ = 0;
};

}  // namespace fastgen::assignment
