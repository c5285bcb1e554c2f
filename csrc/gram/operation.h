// Inner products and sums of each sample's tensors, as plain data. Semantics:
// fastgen/kernels/gram/reference.py.
#pragma once
#include <algorithm>

#include "common/types.h"

namespace fastgen {

constexpr int MAX_BRANCHES = 8;
// Elements of one row that are added up at a time: what a sum is does not depend on the threads.
constexpr int64_t GRAM_PART = 4096;

struct Gram {
  int64_t rows, elements;  // of each tensor, contiguous; elements are those of one row
  int inputs;
  bool float64;  // any tensor is
  const void* input[MAX_BRANCHES];
  DType input_type[MAX_BRANCHES];
  double* output;    // [rows][inputs + 1][inputs + 1]
  double* partials;  // [rows][parts()][entries()]

  int64_t parts() const { return std::max<int64_t>(1, (elements + GRAM_PART - 1) / GRAM_PART); }
  // The inner products of i <= j, row after row, then the sums.
  int entries() const { return inputs * (inputs + 1) / 2 + inputs; }
  int64_t size() const { return rows * elements; }
};

struct GramKernels {
  static const GramKernels baseline, avx2, avx512;
  // The parts [begin, end) of all rows.
  void (*gram)(const Gram&, int64_t begin, int64_t end);
};

void gram(const Gram& op, int threads);

}  // namespace fastgen
