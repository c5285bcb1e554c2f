// What a solution proves, its own rounding included, and the solution of what levels do not settle.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "assignment/operation.h"
#include "assignment/transport.h"

namespace fastgen::assignment {

// A gap of at most this part of the cost, or the tolerance where that is more, needs no proof
// beyond float64's.
constexpr double SETTLED = 1e-8;

inline bool settled(double gap, double size, const Options& options) {
  if (!std::isfinite(gap) || options.epsilon > 0) return std::isfinite(gap);
  return gap <= std::max(1.01 * options.tolerance, SETTLED) * size;
}

// The sum of the pairs' costs without their signs, those that are far above others cut: next to one
// of them all of those would be of no account.
// Changes their order.
double size_of(double* pairs, int64_t count);
// Of points as they are given: centring may make costs of all.
double size_of(const Problem& problem, const int64_t* match);

// Of pairs and the dual variables that prove them, each u_i being the lowest c_ij - v_j as float64
// has it: no pairing costs less than `cost`, which is the sum of the pairs up to rounding, less
// this. Without `all` columns being assigned their dual variables are not above zero.
struct Proof {
  int64_t row_count, column_count;
  const double *matched, *rows, *columns;
  const int32_t* match;
  const int32_t* copies;  // of each column; null: one of each
  bool all;
  double cost;
};
double certified_gap(const Proof& proof);

// A pairing of least cost for any finite costs; of points for their squared distances, or
// distances, in float64. Starts from the solution if that has a finite gap.
void settle(const Problem& problem, Control& control, int thread, Solution* solution);

// A plan of least cost between rows and columns of the problem that supply and demand as much, and
// its gap.
Shipment ship_problem(const Problem& problem, const int64_t* supply, const int64_t* demand,
                      Control& control, double* gap);

}  // namespace fastgen::assignment
