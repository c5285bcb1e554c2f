#include "combine/operation.h"

#include "common/isa.h"
#include "common/parallel.h"

void fastgen::combine(const Combine& op, int threads) {
  over_elements(kernels<CombineKernels>().combine, op, threads);
}
