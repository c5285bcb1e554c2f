#include "combine.h"

const fastgen::Kernels fastgen::baseline_kernels{"baseline", combine, normals, philox_words};
