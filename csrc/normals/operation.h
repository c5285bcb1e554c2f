// Standard normals, as plain data. Semantics: fastgen/kernels/normals/reference.py.
#pragma once
#include "common/types.h"

namespace fastgen {

struct Normals {
  int64_t rows, elements;
  Noise noise;
  int64_t draw;
  void* output;  // [rows, elements]
  DType output_type;

  int64_t size() const { return rows * elements; }
};

struct NormalsKernels {
  static const NormalsKernels baseline, avx2, avx512;
  // The elements [begin, end) of the flattened tensor.
  void (*normals)(const Normals&, int64_t begin, int64_t end);
  // One block, for tests.
  void (*philox)(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]);
};

void normals(const Normals& op, int threads);

}  // namespace fastgen
