// Rows of a training batch on paths between two clouds, as plain data. Semantics:
// fastgen/kernels/bridge/reference.py.
#pragma once
#include <atomic>

#include "common/types.h"

namespace fastgen {

constexpr int MAX_TARGETS = 6, TERMS = 3, FEATURES = 5;

enum class Sampling : int { independent, stratified, antithetic };

// Rows of a tensor, chosen by an index or in order; no address: no such term.
struct Choice {
  const void* rows;
  DType type;
  int64_t count;
  const int64_t* index;
};

struct Bridge {
  int64_t rows, elements;
  Choice x[2];
  const double* recipe;     // [targets, TERMS, FEATURES], or
  const double* table;      // [rows, targets, TERMS]
  const double* times;      // [rows], or
  const double* quantiles;  // [cells + 1]
  int64_t cells;
  Sampling sampling;
  Noise noise;
  uint32_t time_stream, draw;
  bool noisy, float64;
  bool in_order;  // one seed, and sample ids 0, 1, 2 ...
  int outputs;
  void* output[MAX_TARGETS];
  DType output_type[MAX_TARGETS];
  void* times_out;  // [rows]
  DType times_type;
  std::atomic<bool>* bad_index;  // set where an index is out of range; such rows are not written

  int64_t size() const { return rows * elements; }
};

struct Times {
  int64_t rows;
  const double* quantiles;
  int64_t cells;
  Sampling sampling;
  Noise noise;  // of the stream of times
  uint32_t draw;
  double* output;
};

struct BridgeKernels {
  static const BridgeKernels baseline, avx2, avx512;
  void (*bridge)(const Bridge&, int64_t first_row, int64_t last_row);
  void (*times)(const Times&, int64_t first_row, int64_t last_row);
};

// False where an index was out of range; `op.bad_index` is set by the call.
bool bridge(Bridge op, int threads);
void times(const Times& op);

}  // namespace fastgen
