#include "cascade/operation.h"

#include "common/isa.h"
#include "common/parallel.h"

void fastgen::cascade(const Cascade& op, int threads) {
  over_elements(kernels<CascadeKernels>().cascade, op, threads);
}
