// What the solver looks at: rows of integer costs, computed when they are asked for, or kept.
#pragma once
#include <algorithm>

#include "assignment/problem.h"
#include "common/memory.h"

namespace fastgen::assignment {

// Points whose columns are sorted into boxes; cost = levels of |row - column|^2 or its root.
struct BoxedPoints {
  Points points;
  Boxes boxes;
  const float* rows;  // [row, dims]
  bool root;
};

// Lists pay from so many columns on, of points in at most FLAT_DIMS dimensions later: many rows bid
// for the same columns there, and lists end soon.
constexpr int64_t LISTS_FROM = 448, FLAT_LISTS_FROM = 2600, FLAT_DIMS = 3;

// So few costs (64 MiB) may be kept for rows of which lists are likely to last, and no more than
// that (1 GiB) in any case.
constexpr int64_t FEW_KEPT = int64_t{1} << 24, MOST_KEPT = int64_t{1} << 28;

// Rows of integer costs in [0, RANGE], PADDING_COST in padding. Rows after the last cost nothing.
class Rows {
 public:
  virtual ~Rows() = default;
  // The row, in place or written to `scratch` [padded columns].
  virtual const int32_t* row(int64_t i, int32_t* scratch) const = 0;
  // Points in boxes, or null.
  virtual const BoxedPoints* boxes() const { return nullptr; }
  // From so many columns on rows keep lists of their nearest.
  virtual int64_t lists_from() const { return LISTS_FROM; }
  // The columns that cost less than RANGE, in order, and what; 0 if not known or more than `most`.
  virtual int64_t cheap(int64_t /*i*/, int64_t /*most*/, int32_t* /*columns*/,
                        int32_t* /*costs*/) const {
    return 0;
  }
  // Up to so many costs all rows are kept from the start even where there are lists; 0: it takes no
  // time to compute one.
  virtual int64_t kept_at_once() const { return 0; }
};

// Fills what is behind the columns of a row; returns the row.
inline const int32_t* pad(int32_t* row, int64_t columns) {
  std::fill(row + columns, row + padded(columns), PADDING_COST);
  return row;
}

class KeptRows : public Rows {
 public:
  KeptRows(int64_t rows, int64_t stride)
      : levels_(pooled<int32_t>(rows * stride)), stride_(stride) {}
  int32_t* at(int64_t i) { return levels_.get() + i * stride_; }
  const int32_t* row(int64_t i, int32_t*) const override { return levels_.get() + i * stride_; }

 private:
  const Pooled<int32_t> levels_;
  const int64_t stride_;
};

}  // namespace fastgen::assignment
