// Sums on the rows of a workspace, formed one after another, as plain data. Semantics:
// fastgen/kernels/cascade/reference.py.
#pragma once
#include "common/types.h"

namespace fastgen {

// A line of the list of sums.
struct CascadeSum {
  int64_t target, begin, end, clipped;
};

struct Cascade {
  int64_t rows, elements;  // of each row of the workspace: samples, and numbers of a sample
  bool float64;
  void* work;                  // [..., rows, elements]
  const double* coefficients;  // [1 or rows][terms]
  int64_t terms;
  bool coefficients_per_row;
  const CascadeSum* sums;
  const int64_t* sources;  // a row of the workspace, or -1 - k for draw k
  int64_t first, last;     // which of the sums
  double low, high;
  Noise noise;
  const int64_t* draws;

  int64_t size() const { return rows * elements; }
};

struct CascadeKernels {
  static const CascadeKernels baseline, avx2, avx512;
  // The elements [begin, end) of all rows of the workspace.
  void (*cascade)(const Cascade&, int64_t begin, int64_t end);
};

void cascade(const Cascade& op, int threads);

}  // namespace fastgen
