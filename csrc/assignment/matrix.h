// A matrix of integer costs as rows.
#pragma once
#include <vector>

#include "assignment/sample.h"
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

// The rows and columns `chosen` of a matrix: a copy, except for all.
class MatrixSample : public Rows {
 public:
  MatrixSample(const int32_t* levels, int64_t stride, const Chosen& chosen)
      : levels_(levels),
        stride_(chosen.all() ? stride : padded(chosen.count())),
        count_(chosen.count()) {
    if (chosen.all()) return;
    copy_.assign(count_ * stride_, PADDING_COST);
    for (int64_t i = 0; i < count_; ++i)
      for (int64_t j = 0; j < count_; ++j)
        copy_[i * stride_ + j] = levels[chosen.at(i) * stride + chosen.at(j)];
    levels_ = copy_.data();
  }
  const int32_t* row(int64_t i, int32_t*) const override { return levels_ + i * stride_; }
  int64_t count() const { return count_; }

 private:
  const int32_t* levels_;
  const int64_t stride_, count_;
  std::vector<int32_t> copy_;
};

}  // namespace fastgen::assignment
