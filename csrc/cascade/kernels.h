// Tile by tile through all sums: what one sum writes is still in the cache when others read it.
#pragma once
#include "cascade/operation.h"
#include "common/convert.h"
#include "common/normals.h"

namespace fastgen {
namespace {

constexpr int CASCADE_TILE = 256;

template <class Real>
class CascadeTile {
 public:
  explicit CascadeTile(const Cascade& op) : op_(op), work_(static_cast<Real*>(op.work)) {}

  // All sums of some elements, of one sample where each has its own coefficients.
  void run(int64_t at, int64_t count, const double* coefficients) {
    at_ = at, count_ = count;
    for (int64_t i = op_.first; i < op_.last; ++i) {
      const CascadeSum& sum = op_.sums[i];
      begun_ = false;
      for (int64_t t = sum.begin; t < sum.end; ++t) {
        const Real c = static_cast<Real>(coefficients[t]);
        if (c != 0) add(c, term(op_.sources[t]));
      }
      if (!begun_)
        for (int64_t k = 0; k < count; ++k) total_[k] = 0;
      if (sum.clipped) clip();
      std::memcpy(work_ + sum.target * op_.size() + at, total_, count * sizeof(Real));
    }
  }

 private:
  const Cascade& op_;
  Real* const work_;
  int64_t at_ = 0, count_ = 0;
  bool begun_ = false;
  alignas(64) Real total_[CASCADE_TILE], noise_[CASCADE_TILE];

  const Real* term(int64_t source) {
    if (source >= 0) return work_ + source * op_.size() + at_;
    const Draw draw{op_.draws - 1 - source, 0};
    if constexpr (sizeof(Real) == sizeof(float)) {
      fill_normals(noise_, at_, count_, op_.elements, draw, op_.noise);
    } else {
      alignas(64) float normals[CASCADE_TILE];
      fill_normals(normals, at_, count_, op_.elements, draw, op_.noise);
      convert(noise_, normals, count_);
    }
    return noise_;
  }

  void add(Real c, const Real* x) {
    const int64_t count = count_;
    if (begun_)
      for (int64_t k = 0; k < count; ++k) total_[k] += c * x[k];
    else
      for (int64_t k = 0; k < count; ++k) total_[k] = c * x[k];
    begun_ = true;
  }

  void clip() {
    const Real low = static_cast<Real>(op_.low), high = static_cast<Real>(op_.high);
    for (int64_t k = 0; k < count_; ++k) {  // NaN passes through both comparisons
      total_[k] = total_[k] < low ? low : total_[k];
      total_[k] = total_[k] > high ? high : total_[k];
    }
  }
};

template <class Real>
void cascade_of(const Cascade& op, int64_t begin, int64_t end) {
  CascadeTile<Real> tile(op);
  for (int64_t at = begin; at < end;) {
    const int64_t row = op.coefficients_per_row ? at / op.elements : 0;
    const int64_t left = (op.coefficients_per_row ? (row + 1) * op.elements : end) - at;
    int64_t count = left < end - at ? left : end - at;
    if (count > CASCADE_TILE) count = CASCADE_TILE;
    tile.run(at, count, op.coefficients + row * op.terms);
    at += count;
  }
}

void cascade_elements(const Cascade& op, int64_t begin, int64_t end) {
  if (op.float64)
    cascade_of<double>(op, begin, end);
  else
    cascade_of<float>(op, begin, end);
}

}  // namespace
}  // namespace fastgen
