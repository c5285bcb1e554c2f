#include "brownian.h"
#include "combine.h"

const fastgen::Kernels fastgen::avx2_kernels{"avx2", Isa::avx2, combine, normals,
                                         brownian, philox_words};
