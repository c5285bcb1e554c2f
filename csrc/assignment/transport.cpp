#include "assignment/transport.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <stdexcept>

#include "assignment/simplex.h"
#include "assignment/wide.h"

namespace fastgen::assignment {
namespace {

// Dual variables to start from that are so many times larger than any cost are not of use.
constexpr double FARTHEST = 0x1p22;
constexpr int FARTHEST_BITS = 24;
// Sums in float64 are finite if costs are below 2^HIGHEST.
constexpr int HIGHEST = 900;

template <int L>
Shipment ship_in(const Transport& problem, int unit, int scale, Control& control, int thread) {
  return Simplex<L>(problem, unit, scale, control, thread).run();
}

}  // namespace

Shipment ship(const Transport& problem, Control& control, int thread) {
  // Bits from the lowest of any cost to those of sums along a path through all points.
  int lowest = INT_MAX, highest = INT_MIN;
  double largest = 0;
  std::vector<double> scratch(problem.columns);
  for (int64_t i = 0; i < problem.rows; ++i) {
    const double* row = problem.costs->row(i, scratch.data());
    for (int64_t j = 0; j < problem.columns; ++j) {
      if (!std::isfinite(row[j])) throw std::domain_error("cost: expected finite numbers");
      const Dyadic cost = dyadic(row[j]);
      if (cost.mantissa) lowest = std::min(lowest, cost.exponent);
      largest = std::max(largest, std::abs(row[j]));
    }
    if (i % 64 == 0) control.poll(thread);
  }
  Transport own = problem;
  std::vector<double> duals;
  if (problem.row_duals) {
    duals.assign(problem.row_duals, problem.row_duals + problem.rows);
    for (double& dual : duals)
      if (!(std::abs(dual) / FARTHEST <= largest)) dual = 0;
    own.row_duals = duals.data();
  }
  if (largest == 0) lowest = highest = 0;
  if (largest > 0) highest = std::ilogb(largest) + 1;
  int path = FARTHEST_BITS;
  while ((int64_t{1} << (path - 2)) < problem.rows + problem.columns) ++path;
  const int bits = highest - lowest + path + 2;
  const int scale = std::min(0, HIGHEST - highest);
  if (bits <= 128) return ship_in<2>(own, lowest, scale, control, thread);
  if (bits <= 256) return ship_in<4>(own, lowest, scale, control, thread);
  if (bits <= 512) return ship_in<8>(own, lowest, scale, control, thread);
  return ship_in<36>(own, lowest, scale, control, thread);
}

}  // namespace fastgen::assignment
