#include "combine.h"

const fastgen::Kernels fastgen::avx512_kernels{"avx512", combine, normals, philox_words};
