#include "brownian.h"
#include "combine.h"

const fastgen::Kernels fastgen::avx512_kernels{"avx512", Isa::avx512, combine, normals,
                                           brownian, philox_words};
