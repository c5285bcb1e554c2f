#include "../dispatch.h"

#include <algorithm>

#include "stochastic.h"

namespace fastgen {
namespace {

const StochasticKernels& kernels() {
#ifdef FASTGEN_X86
  if (isa_level() == Isa::avx512) return stochastic_avx512;
  if (isa_level() == Isa::avx2) return stochastic_avx2;
#endif
  return stochastic_baseline;
}

// Threads begin at multiples of this many elements: no cache line of an aligned output is shared.
constexpr int64_t GRAIN = 1024;

}  // namespace

void stochastic_combine(const Stochastic& op, int threads) {
  const int64_t size = op.size();
  if (size == 0) return;
  const auto combine = kernels().combine;
  if (threads <= 1) return combine(op, 0, size);
  const int64_t units = (size + GRAIN - 1) / GRAIN;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; ++i) {
    const int64_t begin = units * i / threads * GRAIN;
    const int64_t end = std::min(units * (i + 1) / threads * GRAIN, size);
    if (begin < end) combine(op, begin, end);
  }
}

}  // namespace fastgen
