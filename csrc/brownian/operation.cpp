#include "brownian/operation.h"

#include "common/isa.h"
#include "common/parallel.h"

void fastgen::brownian(const Brownian& op, int threads) {
  over_elements(kernels<BrownianKernels>().brownian, op, threads);
}
