// Points as rows of integer costs, computed when they are asked for.
#pragma once
#include <memory>
#include <vector>

#include "assignment/rows.h"

namespace fastgen::assignment {

struct Solution;

// Centred clouds in float32 and float64, sorted so that neighbours are near in memory.
class Clouds {
 public:
  // Where `all` columns are to be assigned each cloud is centred by itself.
  Clouds(const void* rows, const void* columns, bool float64, int64_t row_count,
         int64_t column_count, int64_t dims, bool root, bool all);

  int64_t dims() const { return dims_; }
  bool root() const { return root_; }
  double range() const { return range_; }  // no cost is above
  // The squared diagonal, which need not fit in float64, and the longest side of a box around both.
  double squares() const { return squares_; }
  double extent() const { return extent_; }
  // Mean of the rows less that of the columns, taken away by centring.
  const std::vector<double>& shift() const { return shift_; }
  // Original indices.
  const std::vector<int32_t>& row_order() const { return row_order_; }
  const std::vector<int32_t>& column_order() const { return column_order_; }
  const double* row(int64_t i) const { return &rows_[i * dims_]; }
  const double* column(int64_t j) const { return &columns_[j * dims_]; }
  double cost(int64_t i, int64_t j) const;  // as ExactPoints has it
  // What rounding may add to the gap of a pairing of this cost: of centring and of squares.
  double rounding(double cost, double centred_cost) const;
  // In the given order, for the given points; the solution's cost is one of centred points.
  void write(const std::vector<int32_t>& match, const std::vector<double>& u,
             const std::vector<double>& v, Solution* solution) const;
  int64_t rows() const { return row_order_.size(); }
  int64_t columns() const { return column_order_.size(); }

 private:
  const int64_t dims_;
  const bool root_;
  double range_ = 0, squares_ = 0, extent_ = 0;
  std::vector<double> rows_, columns_, shift_;
  std::vector<int32_t> row_order_, column_order_;
};

// The clouds as integer costs.
class PointRows : public Rows {
 public:
  // Boxed, far columns are not looked at; otherwise rows are worth keeping.
  PointRows(const Clouds& clouds, double scale, bool boxed);
  PointRows(const PointRows&) = delete;
  PointRows(PointRows&&) = default;

  const int32_t* row(int64_t i, int32_t* scratch) const override;
  const BoxedPoints* boxes() const override { return boxed_ ? &points_ : nullptr; }
  int64_t lists_from() const override {
    return points_.points.dims <= FLAT_DIMS ? FLAT_LISTS_FROM : LISTS_FROM;
  }
  int64_t kept_at_once() const override { return boxed_ ? 0 : FEW_KEPT; }
  int64_t count() const { return column_count_; }
  // The rows and columns `places`.
  PointRows sample(const std::vector<int64_t>& places) const;

 private:
  PointRows(int64_t rows, int64_t columns, int64_t dims, bool root, bool boxed);
  void find_boxes();

  const Kernels& kernels_;
  bool boxed_;
  int64_t row_count_, column_count_;
  std::vector<float> rows_, columns_, low_, high_;
  BoxedPoints points_;
};

// Costs in float64, less prices; for certificates and refinement.
class ExactPoints {
 public:
  explicit ExactPoints(const Clouds& clouds);
  void row(int64_t i, double* costs) const { row(i, 0, clouds_.columns(), costs); }  // [columns]
  void row(int64_t i, int64_t begin, int64_t count, double* costs) const;

 private:
  const Kernels& kernels_;
  const Clouds& clouds_;
  std::vector<double> columns_;
  Points points_;
};

// Columns [rows, MOST_LISTED] of which others cannot take the place in an optimal assignment, and
// how many; 0 where they are not known. Empty where none are.
struct Candidates {
  std::vector<int32_t> columns;
  std::vector<int64_t> counts;
};

// Levels of (costs - prices - low[i]) * scale. What it is made from must outlive it.
class FinePointRows : public Rows {
 public:
  // Where `candidates` are not known, up to `kept` costs are kept at once.
  FinePointRows(const ExactPoints& costs, const Clouds& clouds, const double* low,
                const double* prices, double scale, const Candidates& candidates,
                int64_t kept = FEW_KEPT)
      : kernels_(kernels<Kernels>()),
        costs_(costs),
        clouds_(clouds),
        low_(low),
        prices_(prices),
        scale_(scale),
        candidates_(candidates),
        kept_(candidates.counts.empty() ? kept : 0) {}
  const int32_t* row(int64_t i, int32_t* scratch) const override;
  int64_t cheap(int64_t i, int64_t most, int32_t* columns, int32_t* costs) const override;
  int64_t kept_at_once() const override { return kept_; }

 private:
  const Kernels& kernels_;
  const ExactPoints& costs_;
  const Clouds& clouds_;
  const double *low_, *prices_, scale_;
  const Candidates& candidates_;
  const int64_t kept_;
};

}  // namespace fastgen::assignment
