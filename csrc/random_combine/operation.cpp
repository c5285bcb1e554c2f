#include "random_combine/operation.h"

#include "common/isa.h"
#include "common/parallel.h"

void fastgen::random_combine(const RandomCombine& op, int threads) {
  over_elements(kernels<RandomCombineKernels>().combine, op, threads);
}
