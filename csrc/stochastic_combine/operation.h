// Linear combinations whose coefficients are polynomials in unit noises, as plain data. Semantics:
// fastgen/kernels/stochastic_combine/reference.py.
#pragma once
#include "common/types.h"

namespace fastgen {

// 1, z, z^2, z^3, z'
constexpr int MONOMIALS = 5;

struct StochasticCombine {
  int64_t rows, elements;  // of each tensor, contiguous
  int inputs, outputs;
  bool float64;  // the arithmetic; otherwise float32
  const void* input[MAX_INPUTS];
  void* output[MAX_OUTPUTS];
  DType input_type[MAX_INPUTS], output_type[MAX_OUTPUTS];
  const double* table;  // [1 or rows, outputs, inputs, MONOMIALS]
  bool table_per_row;
  const void* given[2];  // z and z', or null: drawn, as many as `noises` says
  DType given_type[2];
  Noise noise;
  const int64_t* draws;
  bool draws_per_row;
  int noises;

  int64_t size() const { return rows * elements; }
};

struct StochasticCombineKernels {
  static const StochasticCombineKernels baseline, avx2, avx512;
  // The elements [begin, end) of the flattened tensors.
  void (*combine)(const StochasticCombine&, int64_t begin, int64_t end);
};

void stochastic_combine(const StochasticCombine& op, int threads);

}  // namespace fastgen
