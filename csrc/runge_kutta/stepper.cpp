#include "runge_kutta/stepper.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/parallel.h"

namespace fastgen {
namespace {

template <class Real>
void swap_parts(void* data, int64_t a, int64_t b, int64_t elements) {
  Real* x = static_cast<Real*>(data);
  std::swap_ranges(x + a * elements, x + (a + 1) * elements, x + b * elements);
}

template <class Real>
void begin_rows(const Integration& op) {
  for (int64_t r = 0; r < op.rows; ++r) {
    const Real* y = static_cast<const Real*>(op.y) + r * op.elements;
    const double* times = op.output_times + r * op.output_stride;
    std::copy_n(y, op.elements, static_cast<Real*>(op.stage) + r * op.elements);
    static_cast<Real*>(op.stage_times)[r] = static_cast<Real>(times[0]);
    int64_t& cursor = op.at(CURSOR, r);
    for (; cursor < op.outputs && times[cursor] == times[0]; ++cursor)
      std::copy_n(y, op.elements,
                  static_cast<Real*>(op.ys) + (cursor * op.capacity + r) * op.elements);
  }
}

}  // namespace

void Stepper::begin(void* ys, Numbers rtol, Numbers atol, Numbers first_step) {
  op.ys = ys;
  kernels = &fastgen::kernels<RungeKuttaKernels>();
  op.rows = op.capacity;
  phase = BEGIN;
  evaluated = calls = 0;
  std::fill_n(op.control, CONTROLS * op.capacity, 0.0);
  std::fill_n(op.count, COUNTS * op.capacity, int64_t{0});
  for (int64_t r = 0; r < op.capacity; ++r) {
    const double* times = op.output_times + r * op.output_stride;
    op.at(TIME, r) = times[0];
    op.at(END, r) = times[op.outputs - 1];
    op.at(RTOL, r) = rtol[r];
    op.at(ATOL, r) = atol[r];
    op.at(PROPOSAL, r) = first_step[r];
    op.at(ERROR, r) = 1;
    op.at(ROW, r) = r;
    op.at(STATUS, r) = op.at(TIME, r) == op.at(END, r) ? DONE : RUNNING;
  }
  (op.float64 ? begin_rows<double> : begin_rows<float>)(op);
}

bool Stepper::far(double steps) const {
  for (int64_t r = 0; r < op.rows; ++r)
    if (std::abs(op.at(END, r) - op.at(TIME, r)) > steps * std::abs(op.at(STEP, r))) return true;
  return false;
}

void Stepper::stage(int i) {
  parallel_for(op.rows, 1, threads,
               [&](int64_t begin, int64_t end, int) { kernels->stage(op, i, begin, end); });
}

void Stepper::run(RowsKernel kernel) {
  parallel_for(op.rows, 1, threads,
               [&](int64_t begin, int64_t end, int) { (kernels->*kernel)(op, begin, end); });
}

void Stepper::keep(int i, const void* slope) {
  const int64_t width = op.float64 ? 8 : 4, stride = op.capacity * op.elements * width;
  std::memcpy(static_cast<char*>(op.k) + i * stride, slope, op.rows * op.elements * width);
}

int Stepper::compacted() {
  bool changed = false, running = false;
  int64_t rows = op.rows;
  for (int64_t r = 0; r < rows && !running; ++r) running = op.at(STATUS, r) == RUNNING;
  if (!running || !compact) return running ? 0 : FINISHED;
  for (int64_t r = 0; r < rows;) {
    if (op.at(STATUS, r) == RUNNING) {
      ++r;
      continue;
    }
    const int64_t last = --rows;
    changed = true;
    if (r == last) continue;
    for (void* part : {op.y, op.k})
      (op.float64 ? swap_parts<double> : swap_parts<float>)(part, r, last, op.elements);
    for (int i = 0; i < CONTROLS; ++i)
      std::swap(op.at(static_cast<Control>(i), r), op.at(static_cast<Control>(i), last));
    for (int i = 0; i < COUNTS; ++i)
      std::swap(op.at(static_cast<Count>(i), r), op.at(static_cast<Count>(i), last));
  }
  op.rows = rows;
  return changed ? FEWER_ROWS : 0;
}

int Stepper::advance(const void* slope) {
  evaluated += op.rows;
  ++calls;
  int code = 0;
  if (phase == BEGIN) {
    keep(0, slope);
    if (!first_step_given) {
      run(&RungeKuttaKernels::probe);
      phase = PROBED;
      return 0;
    }
    run(&RungeKuttaKernels::start);
    code = compacted();
  } else if (phase == PROBED) {
    keep(1, slope);
    run(&RungeKuttaKernels::first);
    code = compacted();
  } else {
    parallel_for(op.rows, 1, threads, [&](int64_t begin, int64_t end, int) {
      kernels->take(op, phase, slope, begin, end);
    });
    if (phase < op.stages - 1) {
      ++phase;
      return 0;
    }
    phase = 1;
    code = compacted();
    if (code == FEWER_ROWS) stage(1);  // others are in their places
    return code;
  }
  if (code != FINISHED) stage(phase = 1);
  return code;
}

int Stepper::drive(const std::vector<CompiledCall>& f, const void* slope, int64_t until) {
  int code = 0;
  while (code == 0 && calls < until) {
    for (const CompiledCall& call : f) call();
    code = advance(slope);
  }
  return code;
}

}  // namespace fastgen
