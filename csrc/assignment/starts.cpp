// What a solution starts from: given prices, or those of a sample of rows and columns.
#include <algorithm>
#include <climits>

#include "assignment/matrix.h"
#include "assignment/rounds.h"
#include "assignment/sample.h"

namespace fastgen::assignment {
namespace {

// The last epsilon of a sample, of the range.
constexpr double SAMPLE_ENDS = 5e-4;

}  // namespace

// As many prices are started from those of a sample.
bool Assignment::sampled() const {
  return rows_ == columns_ && copies_.empty() && columns_ >= SAMPLE_FROM && !options_.warm_prices;
}

Prices Assignment::warm_prices(double scale) const {
  std::vector<double> start(columns_);
  for (int64_t j = 0; j < columns_; ++j) {
    start[j] = options_.warm_prices[clouds_ ? clouds_->column_order()[j] : j];
    for (int64_t k = 0; clouds_ && k < clouds_->dims(); ++k)
      start[j] += 2 * clouds_->shift()[k] * clouds_->column(j)[k];
  }
  const double highest = *std::max_element(start.begin(), start.end());
  Prices prices(stride_);
  for (int64_t j = 0; j < columns_; ++j)
    prices[j] = static_cast<int32_t>(std::max((start[j] - highest) * scale, -1.0 * RANGE));
  return prices;
}

// Prices of the columns, from those of a sample of rows and columns: there
// v_j = min_i (c_ij - u_i) over the sample's rows. None where there are too few columns.
template <class Sampled>
Prices Assignment::sample_prices(Sampled& fine) {
  if (fine.count() < SAMPLE_FROM) return {};
  const std::vector<int64_t> places = sample_places(fine.count());
  Sampled coarse = fine.sample(places);
  Prices coarse_prices = sample_prices(coarse);
  const int64_t count = coarse.count(), coarse_stride = padded(count);
  Solver solver(coarse, count, count, nullptr, team_, control_, thread_);
  solver.solve(coarse_prices, static_cast<int32_t>(RANGE * COLD),
               static_cast<int32_t>(RANGE * SAMPLE_ENDS));
  const int64_t stride = padded(fine.count());
  Prices prices(stride, INT_MAX);
  std::vector<Prices> scratch(team_.size()), lowest(team_.size(), prices);
  each_row(count, [&](int64_t i, int thread) {
    Prices& costs = scratch[thread];
    costs.resize(stride);
    const int32_t offset =
        kernels_.best_two(coarse.row(i, costs.data()), coarse_prices.data(), coarse_stride).first;
    kernels_.lower(fine.row(places[i], costs.data()), offset, stride, lowest[thread].data());
  });
  for (const Prices& part : lowest) kernels_.lower(part.data(), 0, stride, prices.data());
  return prices;
}

// What a solution starts from, and its first epsilon.
template <class Sampled>
Prices Assignment::first_prices(Sampled& rows, double scale, double* first) {
  const bool warm = options_.warm_prices && rows_ == total_;
  *first = warm || sampled() ? SAMPLED : COLD;
  return warm ? warm_prices(scale) : sampled() ? sample_prices(rows) : Prices();
}

template Prices Assignment::first_prices(PointRows&, double, double*);
template Prices Assignment::first_prices(MatrixRows<float>&, double, double*);
template Prices Assignment::first_prices(MatrixRows<double>&, double, double*);

}  // namespace fastgen::assignment
