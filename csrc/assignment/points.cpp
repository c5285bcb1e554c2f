#include "assignment/points.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "assignment/operation.h"

namespace fastgen::assignment {
namespace {

std::vector<double> mean_of(const double* points, int64_t count, int64_t dims) {
  std::vector<double> mean(dims);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t k = 0; k < dims; ++k) mean[k] += points[i * dims + k];
  for (double& x : mean) x /= count;
  return mean;
}

std::vector<double> in_double(const void* points, bool float64, int64_t count) {
  std::vector<double> out(count);
  if (float64)
    std::copy_n(static_cast<const double*>(points), count, out.begin());
  else
    std::copy_n(static_cast<const float*>(points), count, out.begin());
  return out;
}

// Splits the widest side at the median until a part fits in a box, parts being whole boxes.
void sort_spatially(int32_t* order, int64_t count, const double* points, int64_t dims) {
  if (count <= BOX) return;
  int64_t widest = 0;
  double width = -1;
  for (int64_t k = 0; k < dims; ++k) {
    double low = points[order[0] * dims + k], high = low;
    for (int64_t i = 1; i < count; ++i) {
      const double x = points[order[i] * dims + k];
      low = std::min(low, x);
      high = std::max(high, x);
    }
    if (high - low > width) {
      width = high - low;
      widest = k;
    }
  }
  const int64_t boxes = (count + BOX - 1) / BOX, middle = boxes / 2 * BOX;
  std::nth_element(order, order + middle, order + count, [&](int32_t a, int32_t b) {
    const double x = points[a * dims + widest], y = points[b * dims + widest];
    return x != y ? x < y : a < b;
  });
  sort_spatially(order, middle, points, dims);
  sort_spatially(order + middle, count - middle, points, dims);
}

std::vector<int32_t> spatial_order(std::vector<double>& points, int64_t count, int64_t dims) {
  std::vector<int32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  sort_spatially(order.data(), count, points.data(), dims);
  std::vector<double> sorted(points.size());
  for (int64_t i = 0; i < count; ++i)
    std::copy_n(&points[order[i] * dims], dims, &sorted[i * dims]);
  points.swap(sorted);
  return order;
}

}  // namespace

Clouds::Clouds(const void* rows, const void* columns, bool float64, int64_t row_count,
               int64_t column_count, int64_t dims, bool root, bool all)
    : dims_(dims), root_(root) {
  rows_ = in_double(rows, float64, row_count * dims);
  columns_ = in_double(columns, float64, column_count * dims);
  // If each cloud is centred by itself, squared distances change by constants of rows and columns,
  // which matter only where a column may be left over.
  const std::vector<double> row_mean = mean_of(rows_.data(), row_count, dims);
  const std::vector<double> column_mean =
      root || !all ? row_mean : mean_of(columns_.data(), column_count, dims);
  shift_.resize(dims);
  for (int64_t k = 0; k < dims; ++k) shift_[k] = row_mean[k] - column_mean[k];
  for (int64_t k = 0; k < dims; ++k) {
    double low = 0, high = 0;
    for (int64_t i = 0; i < row_count; ++i) {
      double& x = rows_[i * dims + k];
      x -= row_mean[k];
      low = std::min(low, x);
      high = std::max(high, x);
    }
    for (int64_t j = 0; j < column_count; ++j) {
      double& x = columns_[j * dims + k];
      x -= column_mean[k];
      low = std::min(low, x);
      high = std::max(high, x);
    }
    squares_ += (high - low) * (high - low);
    extent_ = std::max(extent_, high - low);
  }
  range_ = root ? std::sqrt(squares_) : squares_;
  row_order_ = spatial_order(rows_, row_count, dims);
  column_order_ = spatial_order(columns_, column_count, dims);
}

double Clouds::cost(int64_t i, int64_t j) const {
  double sum = 0;
  for (int64_t k = 0; k < dims_; ++k) {
    const double difference = row(i)[k] - column(j)[k];
    sum += difference * difference;
  }
  return root_ ? std::sqrt(sum) : sum;
}

void Clouds::write(const std::vector<int32_t>& match, const std::vector<double>& u,
                   const std::vector<double>& v, Solution* solution) const {
  // Back to the given order and origin: |a - b + s|^2 = |a - b|^2 + (2 s.a + |s|^2) - 2 s.b.
  const auto along = [&](const double* x) {
    double sum = 0;
    for (int64_t k = 0; k < dims_; ++k) sum += shift_[k] * x[k];
    return sum;
  };
  const double square = along(shift_.data());
  for (int64_t i = 0; i < rows(); ++i) {
    const int64_t at = row_order_[i];
    solution->match[at] = column_order_[match[i]];
    solution->rows[at] = u[i] + 2 * along(row(i)) + square;
    solution->cost += 2 * (along(row(i)) - along(column(match[i]))) + square;
  }
  for (int64_t j = 0; j < columns(); ++j)
    solution->columns[column_order_[j]] = v[j] - 2 * along(column(j));
}

double Clouds::rounding(double cost, double centred_cost) const {
  constexpr double HALF_ULP = 0x1p-53;
  const auto size = [&](const double* x) {
    double sum = 0;
    for (int64_t k = 0; k < dims_; ++k) sum += x[k] * x[k];
    return sum;
  };
  double row_size = 0, column_size = 0;
  for (int64_t i = 0; i < rows(); ++i) row_size = std::max(row_size, size(row(i)));
  for (int64_t j = 0; j < columns(); ++j) column_size = std::max(column_size, size(column(j)));
  const double shift = std::sqrt(size(shift_.data()));
  const double away = std::sqrt(row_size) + std::sqrt(column_size);
  // No distance of given points differs by more from that of the centred ones and the shift. Nor
  // does the root of a sum of squares of n of them by more than the root of n times that.
  const double moved = 1.01 * HALF_ULP * (away + shift), pairs = rows();
  const double squares = 1.01 * HALF_ULP * static_cast<double>(dims_ + 4);
  if (root_) return 2 * pairs * moved + 2 * squares * centred_cost;
  return 4 * moved * std::sqrt(pairs * std::abs(cost)) + 4 * pairs * moved * moved +
         squares * (3 * centred_cost + pairs * shift * (2 * away + shift));
}

PointRows::PointRows(int64_t rows, int64_t columns, int64_t dims, bool root, bool boxed)
    : kernels_(kernels<Kernels>()),
      boxed_(boxed),
      row_count_(rows),
      column_count_(columns),
      rows_(rows * dims),
      columns_(dims * padded(columns)) {
  points_ = {{dims, padded(columns), columns_.data(), nullptr}, {}, rows_.data(), root};
}

PointRows::PointRows(const Clouds& clouds, double scale, bool boxed)
    : PointRows(clouds.rows(), clouds.columns(), clouds.dims(), clouds.root(), boxed) {
  const int64_t dims = points_.points.dims, stride = points_.points.stride;
  // The scale is folded into the coordinates: costs come out as levels, whatever the units.
  const double unit = clouds.root() ? scale : std::sqrt(scale);
  for (int64_t i = 0; i < row_count_; ++i)
    for (int64_t k = 0; k < dims; ++k)
      rows_[i * dims + k] = static_cast<float>(clouds.row(i)[k] * unit);
  for (int64_t j = 0; j < column_count_; ++j)
    for (int64_t k = 0; k < dims; ++k)
      columns_[k * stride + j] = static_cast<float>(clouds.column(j)[k] * unit);
  if (boxed) find_boxes();
}

PointRows PointRows::sample(const std::vector<int64_t>& places) const {
  const int64_t count = places.size(), dims = points_.points.dims;
  PointRows found(count, count, dims, points_.root, boxed_);
  for (int64_t at = 0; at < count; ++at)
    for (int64_t k = 0; k < dims; ++k) {
      found.rows_[at * dims + k] = rows_[places[at] * dims + k];
      found.columns_[k * padded(count) + at] = columns_[k * points_.points.stride + places[at]];
    }
  if (boxed_) found.find_boxes();
  return found;
}

void PointRows::find_boxes() {
  const int64_t dims = points_.points.dims, stride = points_.points.stride;
  const int64_t boxes = (column_count_ + BOX - 1) / BOX, box_stride = (boxes + 15) / 16 * 16;
  low_.assign(dims * box_stride, 0.0f);
  high_.assign(dims * box_stride, 0.0f);
  for (int64_t k = 0; k < dims; ++k)
    for (int64_t b = 0; b < boxes; ++b) {
      const float* begin = &columns_[k * stride + b * BOX];
      const auto [low, high] =
          std::minmax_element(begin, begin + std::min(BOX, column_count_ - b * BOX));
      low_[k * box_stride + b] = *low;
      high_[k * box_stride + b] = *high;
    }
  points_.boxes = {box_stride, low_.data(), high_.data()};
}

const int32_t* PointRows::row(int64_t i, int32_t* scratch) const {
  if (i < row_count_)
    kernels_.points_row(points_.points, &rows_[i * points_.points.dims], points_.root,
                        column_count_, scratch);
  else
    std::fill_n(scratch, column_count_, 0);
  return pad(scratch, column_count_);
}

ExactPoints::ExactPoints(const Clouds& clouds)
    : kernels_(kernels<Kernels>()), clouds_(clouds), columns_(clouds.dims() * clouds.columns()) {
  for (int64_t j = 0; j < clouds.columns(); ++j)
    for (int64_t k = 0; k < clouds.dims(); ++k)
      columns_[k * clouds.columns() + j] = clouds.column(j)[k];
  points_ = {clouds.dims(), clouds.columns(), nullptr, columns_.data()};
}

void ExactPoints::row(int64_t i, int64_t begin, int64_t count, double* costs) const {
  const Points from{points_.dims, points_.stride, nullptr, points_.columns_double + begin};
  kernels_.points_row_double(from, clouds_.row(i), clouds_.root(), count, costs);
}

const int32_t* FinePointRows::row(int64_t i, int32_t* scratch) const {
  const int64_t columns = clouds_.columns();
  constexpr int64_t STRIP = 1024;  // at a time, which stay in the nearest cache
  double costs[STRIP] = {};
  const bool given = i < clouds_.rows();
  for (int64_t begin = 0; begin < columns; begin += STRIP) {
    const int64_t count = std::min(STRIP, columns - begin);
    if (given) costs_.row(i, begin, count, costs);
    kernels_.levels_double(costs, prices_ + begin, count, given ? low_[i] : 0.0, scale_,
                           scratch + begin);
  }
  return pad(scratch, columns);
}

int64_t FinePointRows::cheap(int64_t i, int64_t most, int32_t* columns, int32_t* costs) const {
  if (candidates_.counts.empty()) return 0;
  const int64_t count = candidates_.counts[i];
  if (count > most) return 0;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t j = columns[k] = candidates_.columns[i * MOST_LISTED + k];
    const double cost = clouds_.cost(i, j);
    kernels_.levels_double(&cost, prices_ + j, 1, low_[i], scale_, costs + k);
  }
  return count;
}

}  // namespace fastgen::assignment
