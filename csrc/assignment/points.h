// Points as rows of integer costs, computed when they are asked for.
#pragma once
#include <memory>
#include <vector>

#include "assignment/sample.h"
#include "assignment/solver.h"

namespace fastgen::assignment {

// Centred clouds in float32 and float64, sorted so that neighbours are near in memory.
class Clouds {
 public:
  // Where `all` columns are to be assigned each cloud is centred by itself.
  Clouds(const void* rows, const void* columns, bool float64, int64_t row_count,
         int64_t column_count, int64_t dims, bool root, bool all);

  int64_t dims() const { return dims_; }
  bool root() const { return root_; }
  double range() const { return range_; }  // no cost is above
  // Mean of the rows less that of the columns, taken away by centring.
  const std::vector<double>& shift() const { return shift_; }
  // Original indices.
  const std::vector<int32_t>& row_order() const { return row_order_; }
  const std::vector<int32_t>& column_order() const { return column_order_; }
  const double* row(int64_t i) const { return &rows_[i * dims_]; }
  const double* column(int64_t j) const { return &columns_[j * dims_]; }
  double cost(int64_t i, int64_t j) const;  // as ExactPoints has it
  int64_t rows() const { return row_order_.size(); }
  int64_t columns() const { return column_order_.size(); }

 private:
  const int64_t dims_;
  const bool root_;
  double range_ = 0;
  std::vector<double> rows_, columns_, shift_;
  std::vector<int32_t> row_order_, column_order_;
};

// The clouds, or the rows and columns chosen of them, as integer costs.
class PointRows : public Rows {
 public:
  PointRows(const Clouds& clouds, const Chosen& rows, const Chosen& columns, double scale,
            bool boxed);
  const int32_t* row(int64_t i, int32_t* scratch) const override;
  const BoxedPoints* boxes() const override { return boxed_ ? &points_ : nullptr; }
  int64_t lists_from() const override {
    return points_.points.dims <= FLAT_DIMS ? FLAT_LISTS_FROM : LISTS_FROM;
  }
  int64_t count() const { return column_count_; }

 private:
  const Kernels& kernels_;
  const bool boxed_;
  int64_t row_count_, column_count_;
  std::vector<float> rows_, columns_, low_, high_;
  BoxedPoints points_;
};

// Costs in float64, less prices; for certificates and refinement.
class ExactPoints {
 public:
  explicit ExactPoints(const Clouds& clouds);
  void row(int64_t i, double* costs) const;  // [columns]

 private:
  const Kernels& kernels_;
  const Clouds& clouds_;
  std::vector<double> columns_;
  Points points_;
};

}  // namespace fastgen::assignment
