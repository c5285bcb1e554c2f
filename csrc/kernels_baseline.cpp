#include "brownian.h"
#include "combine.h"

const fastgen::Kernels fastgen::baseline_kernels{"baseline", Isa::baseline, combine,
                                                 normals,    brownian,      philox_words};
