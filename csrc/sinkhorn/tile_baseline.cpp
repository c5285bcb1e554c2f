#include "sinkhorn/tile.h"

const fastgen::sinkhorn::Kernels fastgen::sinkhorn::baseline_kernels = FASTGEN_SINKHORN_KERNELS;
