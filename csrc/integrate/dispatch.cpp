#include "../dispatch.h"

#include "stepper.h"

namespace fastgen {

const IntegrateKernels& integrate_kernels() {
#ifdef FASTGEN_X86
  if (isa_level() == Isa::avx512) return integrate_avx512;
  if (isa_level() == Isa::avx2) return integrate_avx2;
#endif
  return integrate_baseline;
}

namespace {

// Rows are shared out in contiguous parts; none of them depends on another.
template <class Work>
void over_rows(int64_t rows, int threads, const Work& work) {
  if (threads <= 1) return work(0, rows);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; ++i) work(rows * i / threads, rows * (i + 1) / threads);
}

template <class Real>
void swap_parts(void* data, int64_t a, int64_t b, int64_t elements) {
  Real* x = static_cast<Real*>(data);
  std::swap_ranges(x + a * elements, x + (a + 1) * elements, x + b * elements);
}

}  // namespace

void Stepper::stage(int i) {
  over_rows(op.rows, threads, [&](int64_t b, int64_t e) { kernels.stage(op, i, b, e); });
}

void Stepper::run(RowsKernel kernel) {
  over_rows(op.rows, threads, [&](int64_t b, int64_t e) { (kernels.*kernel)(op, b, e); });
}

void Stepper::keep(int i, const void* slope) {
  const int64_t width = op.float64 ? 8 : 4, stride = op.capacity * op.elements * width;
  std::memcpy(static_cast<char*>(op.k) + i * stride, slope, op.rows * op.elements * width);
}

int Stepper::compacted() {
  bool changed = false, running = false;
  int64_t rows = op.rows;
  for (int64_t r = 0; r < rows; ++r) running |= op.at(STATUS, r) == RUNNING;
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
      run(&IntegrateKernels::probe);
      phase = PROBED;
      return 0;
    }
    run(&IntegrateKernels::start);
    code = compacted();
  } else if (phase == PROBED) {
    keep(1, slope);
    run(&IntegrateKernels::first);
    code = compacted();
  } else {
    keep(phase, slope);
    if (phase < op.stages - 1) {
      stage(++phase);
      return 0;
    }
    run(&IntegrateKernels::control);
    run(&IntegrateKernels::commit);
    code = compacted();
  }
  if (code != FINISHED) stage(phase = 1);
  return code;
}

}  // namespace fastgen
