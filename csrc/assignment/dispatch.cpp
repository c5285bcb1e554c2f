#include "dispatch.h"

#include "assignment/problem.h"

const fastgen::assignment::Kernels& fastgen::assignment::kernels() {
#ifdef FASTGEN_X86
  if (isa_level() == Isa::avx512) return avx512_kernels;
  if (isa_level() == Isa::avx2) return avx2_kernels;
#endif
  return baseline_kernels;
}
