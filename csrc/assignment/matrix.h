// A matrix of costs as rows of integer ones.
#pragma once
#include <algorithm>
#include <utility>
#include <vector>

#include "assignment/rows.h"

namespace fastgen::assignment {

// Of row `from` the costs in the columns `places`.
template <class T>
void pick(const T* from, const std::vector<int64_t>& places, T* to) {
  for (const int64_t j : places) *to++ = from[j];
}

// Levels of (costs - prices - low[i]) * scale. What it is made from must outlive it.
template <class T>
class MatrixRows : public Rows {
 public:
  // `direct`: the prices are zeros, and neither range nor precision of float32 would be left.
  MatrixRows(const T* costs, int64_t rows, int64_t columns, const double* low, const double* prices,
             double scale, bool direct)
      : kernels_(kernels<Kernels>()),
        costs_(costs),
        rows_(rows),
        columns_(columns),
        low_(low),
        prices_(prices),
        scale_(scale),
        direct_(direct),
        zeros_(columns) {}
  MatrixRows(const MatrixRows&) = delete;
  MatrixRows(MatrixRows&&) = default;

  int64_t count() const { return columns_; }

  const int32_t* row(int64_t i, int32_t* scratch) const override {
    const T* from = i < rows_ ? costs_ + i * columns_ : zeros_.data();
    const double low = i < rows_ ? low_[i] : 0;
    if constexpr (sizeof(T) == 8)
      kernels_.levels_double(from, prices_, columns_, low, scale_, scratch);
    else if (direct_)
      kernels_.levels_direct(from, columns_, static_cast<float>(low), static_cast<float>(scale_),
                             scratch);
    else
      kernels_.levels_float(from, prices_, columns_, low, scale_, scratch);
    return pad(scratch, columns_);
  }

  // The costs at `places`, where they have been picked already.
  void have_sample(std::vector<T> costs) { picked_ = std::move(costs); }

  // The rows and columns `places`, of the same levels.
  MatrixRows sample(const std::vector<int64_t>& places) {
    const int64_t count = places.size();
    std::vector<T> costs = std::move(picked_);
    if (costs.empty()) {
      costs.resize(count * count);
      for (int64_t k = 0; k < count; ++k)
        pick(costs_ + places[k] * columns_, places, &costs[k * count]);
    }
    std::vector<double> low(count);
    pick(low_, places, low.data());
    MatrixRows found(costs.data(), count, count, low.data(), prices_, scale_, direct_);
    found.own_costs_ = std::move(costs);
    found.own_low_ = std::move(low);
    return found;
  }

 private:
  const Kernels& kernels_;
  const T* costs_;
  int64_t rows_, columns_;
  const double *low_, *prices_;
  double scale_;
  bool direct_;
  std::vector<T> zeros_, own_costs_, picked_;
  std::vector<double> own_low_;
};

}  // namespace fastgen::assignment
