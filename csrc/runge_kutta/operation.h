// Error-controlled Runge-Kutta steps, every row with its own time and step size, as plain data.
// Semantics: fastgen/kernels/runge_kutta/reference.py, whose names are used here.
#pragma once
#include <cstdint>

#include "common/types.h"

namespace fastgen {

// Rows of the float64 [CONTROLS, capacity] and int64 [COUNTS, capacity] tables.
enum Control { TIME, STEP, END, RTOL, ATOL, ERROR, ERROR_1, ERROR_2, PROPOSAL, CONTROLS };
enum Count { STATUS, ACCEPTED, REJECTED, CURSOR, ROW, TAKEN, COUNTS };
enum Status { RUNNING, DONE, EVENT, MAX_STEPS, UNDERFLOW_, NON_FINITE };

constexpr int MAX_STAGES = 16;
// Squares are summed by this many lanes, which are then halved: the same sum on every backend.
constexpr int LANES = 1024;

struct StepSize {
  double safety, min_factor, max_factor, min_step, max_step;
  double beta[3];  // exponents of the last three errors
  double order;    // of the solution, for the first step
  int64_t max_steps;
};

struct Integration {
  int64_t rows, capacity, elements;  // rows in use, rows allocated, elements of one
  int stages, degree, segments;
  int64_t outputs, output_stride, live_stride;  // stride 0: the same for all rows
  bool float64;
  const double *a, *c, *error, *dense;  // [S, S], [S], [S], [S, degree]
  const int64_t* segment_ends;          // of the parts of a row whose norms are taken apart
  const int64_t* live;                  // [segments] or [capacity, segments]: what means divide by
  const double* output_times;           // [outputs] or [capacity, outputs]
  void *y, *y_new, *k, *stage, *stage_times, *ys;  // k [S, capacity, N]; ys [T, capacity, N]
  double* control;
  int64_t* count;
  StepSize step_size;

  double& at(Control what, int64_t row) const { return control[what * capacity + row]; }
  int64_t& at(Count what, int64_t row) const { return count[what * capacity + row]; }
  const int64_t* live_of(int64_t row) const { return live + at(ROW, row) * live_stride; }
};

// Each works on the rows [begin, end).
struct RungeKuttaKernels {
  static const RungeKuttaKernels baseline, avx2, avx512;
  // Stage input i and its time; the last one is also y_new.
  void (*stage)(const Integration&, int i, int64_t begin, int64_t end);
  // Error, its norm, acceptance, the next step's size.
  void (*control)(const Integration&, int64_t begin, int64_t end);
  // Outputs passed by, then the new state, of accepted rows; the next step of all.
  void (*commit)(const Integration&, int64_t begin, int64_t end);
  // Slope i comes into k; then stage i + 1, or after the last one all the others, and the first
  // stage of the next step. Rows of the slope that lie over the stage's own are read before.
  void (*take)(const Integration&, int i, const void* slope, int64_t begin, int64_t end);
  // The first step's size from f(t, y), then from f(t + h, y + h f) too.
  void (*probe)(const Integration&, int64_t begin, int64_t end);
  void (*first)(const Integration&, int64_t begin, int64_t end);
  // With a first step that was given: only what `first` does beside.
  void (*start)(const Integration&, int64_t begin, int64_t end);
};

}  // namespace fastgen
