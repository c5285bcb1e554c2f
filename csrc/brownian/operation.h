// The virtual Brownian tree at some times, as plain data. Walks along it: brownian/motion/walk.h.
// Semantics: fastgen/kernels/brownian/reference.py.
#pragma once
#include "brownian/motion/walk.h"
#include "common/types.h"

namespace fastgen {

struct Brownian {
  int64_t rows, elements;
  Noise noise;  // of the tree's stream
  const double* times;
  int64_t times_count, time_stride;  // one time for all rows, or one for each
  bool times_per_row;
  int depth;       // levels of bisection, at most MAX_DEPTH
  double* output;  // [times, rows, elements]

  int64_t size() const { return rows * elements; }
};

struct BrownianKernels {
  static const BrownianKernels baseline, avx2, avx512;
  // The elements [begin, end) of the flattened [rows, elements].
  void (*brownian)(const Brownian&, int64_t begin, int64_t end);
  // The tiles [begin, end) of a walk.
  void (*walk)(const Walk&, int64_t begin, int64_t end);
};

void brownian(const Brownian& op, int threads);

}  // namespace fastgen
