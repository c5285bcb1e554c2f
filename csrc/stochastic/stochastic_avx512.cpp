#include "tiles.h"

const fastgen::StochasticKernels fastgen::stochastic_avx512{Isa::avx512, combine_tiles};
