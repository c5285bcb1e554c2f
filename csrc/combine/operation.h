// Linear combinations of tensors, a clipped value and noises, as plain data. Semantics:
// fastgen/kernels/combine/reference.py.
#pragma once
#include "common/types.h"

namespace fastgen {

constexpr int MAX_SOURCES = MAX_INPUTS + 1 + MAX_NOISES + 1;

// A tensor that all rows share (stride 0), or with a row for each. Of a mask: bytes 0 and 1, or
// weights of a dtype.
struct Part {
  const void* data;
  DType type;
  bool boolean;
  bool per_row;
};

// out_j = sum_i C[j, i] x_i + C[j, N] clip(sum_i A[i] x_i) + sum_k C[j, N + 1 + k] z_k; where
// elements are known it is the sum of row M + j, in which their values may be a term.
struct Combine {
  int64_t rows, elements;  // of each tensor, contiguous; elements are those of one row
  int inputs, outputs, noises;
  bool float64;  // the arithmetic; otherwise float32
  bool clip;
  double low, high;
  const void* input[MAX_INPUTS];
  void* output[MAX_OUTPUTS];
  DType input_type[MAX_INPUTS], output_type[MAX_OUTPUTS];
  const double* table;  // [1 or rows][table_rows()][columns()]: A, if anything is clipped, then C
  bool table_per_row;
  Noise noise;
  const int64_t* draws;  // [1 or rows][noises]
  bool draws_per_row;
  bool known;
  Part values, mask;

  int64_t size() const { return rows * elements; }
  int columns() const { return inputs + clip + noises + known; }
  int table_rows() const { return clip + outputs * (1 + known); }
};

struct CombineKernels {
  static const CombineKernels baseline, avx2, avx512;
  // The elements [begin, end) of the flattened tensors; with tables per row and rows shorter than a
  // tile, the range begins and ends where rows do.
  void (*combine)(const Combine&, int64_t begin, int64_t end);
};

void combine(const Combine& op, int threads);

}  // namespace fastgen
