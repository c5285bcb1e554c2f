// A matrix of integer costs as rows.
#pragma once
#include <vector>

#include "assignment/solver.h"

namespace fastgen::assignment {

class MatrixRows : public Rows {
 public:
  MatrixRows(const int32_t* levels, int64_t stride, int64_t lists_from = LISTS_FROM)
      : levels_(levels), stride_(stride), lists_from_(lists_from) {}
  const int32_t* row(int64_t i, int32_t*) const override { return levels_ + i * stride_; }
  int64_t lists_from() const override { return lists_from_; }

 private:
  const int32_t* levels_;
  const int64_t stride_, lists_from_;
};

// Every `step`-th row and column of a matrix; a copy, except for all.
class MatrixSample : public Rows {
 public:
  MatrixSample(const int32_t* levels, int64_t stride, int64_t rows, int64_t columns, int64_t step)
      : levels_(levels),
        stride_(step == 1 ? stride : padded((columns + step - 1) / step)),
        row_count_((rows + step - 1) / step),
        column_count_((columns + step - 1) / step) {
    if (step == 1) return;
    copy_.assign(row_count_ * stride_, PADDING_COST);
    for (int64_t i = 0; i < row_count_; ++i)
      for (int64_t j = 0; j < column_count_; ++j)
        copy_[i * stride_ + j] = levels[i * step * stride + j * step];
    levels_ = copy_.data();
  }
  const int32_t* row(int64_t i, int32_t*) const override { return levels_ + i * stride_; }
  int64_t rows() const { return row_count_; }
  int64_t columns() const { return column_count_; }

 private:
  const int32_t* levels_;
  const int64_t stride_, row_count_, column_count_;
  std::vector<int32_t> copy_;
};

}  // namespace fastgen::assignment
