// Everything between two evaluations of the vector field, as one call.
#pragma once
#include <cstdint>
#include <vector>

#include "common/compiled.h"
#include "common/isa.h"
#include "runge_kutta/operation.h"

namespace fastgen {

struct Stepper {
  using RowsKernel = void (*RungeKuttaKernels::*)(const Integration&, int64_t, int64_t);
  // Phases beside the number of the stage whose slope comes next, and codes of `advance`.
  static constexpr int BEGIN = 0, PROBED = -1;
  static constexpr int FINISHED = 1, FEWER_ROWS = 2;

  Integration op{};
  const RungeKuttaKernels* kernels = &fastgen::kernels<RungeKuttaKernels>();
  bool compact = false, first_step_given = false;
  int threads = 1, phase = BEGIN;
  int64_t evaluated = 0, calls = 0;

  // The beginning of a solve from the states at y: the tables, and outputs at the first time to ys.
  // Tolerances and first steps are one for all (stride 0) or one for each sample (stride 1).
  struct Numbers {
    const double* data;
    int64_t stride;
    double operator[](int64_t r) const { return data[r * stride]; }
  };
  void begin(void* ys, Numbers rtol, Numbers atol, Numbers first_step);
  // Whether a sample in use is more than so many steps from its end.
  bool far(double steps) const;
  void stage(int i);
  void run(RowsKernel kernel);
  void keep(int i, const void* slope);
  // Puts running rows first and the others out of use, if that is wanted; a code.
  int compacted();
  // Takes f at the stage's input; afterwards the next stage's is there, unless FINISHED.
  int advance(const void* slope);
  // The same again and again, with f compiled: calls that leave it at `slope`. Ends with a code, or
  // 0 after so many evaluations in all.
  int drive(const std::vector<CompiledCall>& f, const void* slope, int64_t until);
};

}  // namespace fastgen
