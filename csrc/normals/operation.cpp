#include "normals/operation.h"

#include "common/isa.h"
#include "common/parallel.h"

void fastgen::normals(const Normals& op, int threads) {
  over_elements(kernels<NormalsKernels>().normals, op, threads);
}
