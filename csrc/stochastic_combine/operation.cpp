#include "stochastic_combine/operation.h"

#include "common/isa.h"
#include "common/parallel.h"

void fastgen::stochastic_combine(const StochasticCombine& op, int threads) {
  over_elements(kernels<StochasticCombineKernels>().combine, op, threads);
}
