#include "sinkhorn/tile.h"

const fastgen::sinkhorn::Kernels fastgen::sinkhorn::avx512_kernels = FASTGEN_SINKHORN_KERNELS;
