// What the kernels compute, as plain data, and the table of functions each ISA level provides.
// Semantics: fastgen/kernels/reference; shapes and counts: checked by fastgen/kernels/contract.py.
#pragma once
#include <cstdint>

namespace fastgen {

constexpr int MAX_INPUTS = 24, MAX_OUTPUTS = 8, MAX_NOISES = 8;
constexpr int MAX_SOURCES = MAX_INPUTS + 1 + MAX_NOISES;

// Values are DTYPE_CODES of fastgen/kernels/contract.py.
enum class DType : int { float32, float64, bfloat16, float16 };

struct Noise {
  const int64_t* seeds;
  int64_t seed_stride;  // 0: one seed for all rows, 1: one for each
  const int64_t* sample_ids;
  uint32_t stream;
};

// The number of a draw: one for all rows (stride 0), or one for each.
struct Draw {
  const int64_t* first;
  int64_t stride;

  uint32_t of(int64_t row) const { return static_cast<uint32_t>(first[row * stride]); }
};

// out_j = sum_i C[j, i] x_i + C[j, N] clip(sum_i A[i] x_i) + sum_k C[j, N + 1 + k] z_k
struct Combine {
  int64_t rows, elements;  // of each tensor, contiguous; elements are those of one row
  int inputs, outputs, noises;
  bool float64;  // the arithmetic; otherwise float32
  bool clip;
  double low, high;
  const void* input[MAX_INPUTS];
  void* output[MAX_OUTPUTS];
  DType input_type[MAX_INPUTS], output_type[MAX_OUTPUTS];
  const double* table;
  bool table_per_row;
  Noise noise;
  const int64_t* draws;
  bool draws_per_row;

  int64_t size() const { return rows * elements; }
  int columns() const { return inputs + clip + noises; }
};

struct Normals {
  int64_t rows, elements;
  Noise noise;
  int64_t draw;
  void* output;
  DType output_type;

  int64_t size() const { return rows * elements; }
};

struct Brownian {
  int64_t rows, elements;
  Noise noise;  // of the tree's stream
  const double* times;
  int64_t times_count, time_stride;  // one time for all rows, or one for each
  bool times_per_row;
  int depth;       // levels of bisection, at most 24
  double* output;  // [times, rows, elements]

  int64_t size() const { return rows * elements; }
};

// The ranges [begin, end) count elements of the flattened tensors; with tables per row and rows
// shorter than a tile, they begin and end where rows do.
enum class Isa { baseline, avx2, avx512 };

struct Kernels {
  const char* name;
  Isa isa;
  void (*combine)(const Combine&, int64_t begin, int64_t end);
  void (*normals)(const Normals&, int64_t begin, int64_t end);
  void (*brownian)(const Brownian&, int64_t begin, int64_t end);
  void (*philox)(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]);
};

extern const Kernels baseline_kernels;
#ifdef FASTGEN_X86
extern const Kernels avx2_kernels, avx512_kernels;
#endif

}  // namespace fastgen
