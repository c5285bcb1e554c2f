#include "sinkhorn/tile.h"

const fastgen::sinkhorn::Kernels fastgen::sinkhorn::avx2_kernels = FASTGEN_SINKHORN_KERNELS;
