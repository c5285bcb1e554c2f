// Assignment on floating-point costs as they are given, without levels: shortest augmenting paths
// from the columns' lowest costs and a few bids (Jonker and Volgenant 1987). Prices are float64.
//
// For what the auction of solver.h has no use for: small problems, and costs with many ties or
// forbidden pairs, where bids assign nearly all rows at once. Costs of +inf forbid a pair.
#pragma once
#include <cstdint>

#include "assignment/operation.h"
#include "common/isa.h"

namespace fastgen::assignment {

// A row's lowest reduced cost, the lowest column that has it, and the lowest of the others.
struct Bid {
  double first, second;
  int64_t column;
};

struct Reached {
  double dist;
  int64_t column;
};

// What a search for a path has found so far.
struct Search {
  double* dist;           // of each column; -1: done
  int64_t* before;        // the row that it is reached from
  const double* blocked;  // of each column; 0: free, infinite: not
  double limit;           // the distance of the nearest free column
};

struct DirectKernels {
  static const DirectKernels baseline, avx2, avx512;
  // lowest[j] = min(lowest[j], row[j]); false if some number is NaN or -inf. Notes where one is
  // +inf.
  bool (*lowest_float)(const float* row, int64_t columns, float* lowest, bool* forbidden);
  bool (*lowest_double)(const double* row, int64_t columns, double* lowest, bool* forbidden);
  Bid (*bid_float)(const float* row, const double* prices, int64_t columns);
  Bid (*bid_double)(const double* row, const double* prices, int64_t columns);
  // The first column that is free and as low as the best one; -1 if there is none.
  int64_t (*free_float)(const float* row, const double* prices, const double* blocked,
                        int64_t columns, const Bid& best);
  int64_t (*free_double)(const double* row, const double* prices, const double* blocked,
                         int64_t columns, const Bid& best);
  // Columns that cost at most so much, the first `room` of them from a place near `from` on, around
  // the end of the row; returns how many.
  int64_t (*tight_float)(const float* row, const double* prices, int64_t columns, double most,
                         int64_t from, int64_t room, int32_t* found);
  int64_t (*tight_double)(const double* row, const double* prices, int64_t columns, double most,
                          int64_t from, int64_t room, int32_t* found);
  // One step of Dijkstra: columns at max(row[j] - prices[j] + shift, base), as far as they are
  // nearer than the nearest free one was. Returns the first of the nearest that are not done.
  Reached (*reach_float)(const float* row, const double* prices, int64_t columns, double shift,
                         double base, int64_t from, Search* search);
  Reached (*reach_double)(const double* row, const double* prices, int64_t columns, double shift,
                          double base, int64_t from, Search* search);
};

// Of so few pairs that `assign_directly` is the fastest way whatever they cost.
bool is_small(const Problem& problem);

// For a matrix. False, with nothing written, where another way is better: many rows are left after
// the bids, some number is NaN or -inf, there is no pairing of allowed pairs, or rounding leaves a
// doubt.
bool assign_directly(const Problem& problem, const Options& options, Control& control, int thread,
                     Solution* solution);

}  // namespace fastgen::assignment
