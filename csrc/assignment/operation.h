// One assignment problem from floating-point costs or points to a certified solution.
#pragma once
#include <cstdint>

#include "assignment/solver.h"

namespace fastgen::assignment {

enum class Form { matrix, points };

// No more rows than columns and their copies. A matrix is [rows, stride]; points are [rows, dims]
// and [columns, dims].
struct Problem {
  Form form;
  bool float64;
  int64_t rows, columns;
  const void* matrix;  // [rows, columns]
  // The points, and whether the cost is their distance rather than its square.
  const void *row_points, *column_points;
  int64_t dims;
  bool root;
  const int32_t* copies;  // how many there are of each column; null: one
};

struct Options {
  // Each pair costs at most `epsilon` of the costs' range more than in an optimal assignment;
  // 0: exact.
  double epsilon;
  // Exact means a gap of at most this part of the cost, with what the matrix leaves out of it, or
  // of rounding.
  double tolerance;
  double left_out;
  const double* warm_prices;  // [columns], or null
};

struct Solution {
  int64_t* match;          // [rows]
  double *rows, *columns;  // dual variables
  double cost, gap;
};

// The problem as it stands: many equal columns bid against one another in steps of epsilon.
void assign_as_given(const Problem& problem, const Options& options, Team& team, Control& control,
                     int thread, Solution* solution);

// The problem (without `copies`) with equal columns, or else equal rows, taken together.
void assign(const Problem& problem, const Options& options, Team& team, Control& control,
            int thread, Solution* solution);

}  // namespace fastgen::assignment
