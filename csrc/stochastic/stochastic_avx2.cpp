#include "tiles.h"

const fastgen::StochasticKernels fastgen::stochastic_avx2{Isa::avx2, combine_tiles};
