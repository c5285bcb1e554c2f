#include "tiles.h"

const fastgen::StochasticKernels fastgen::stochastic_baseline{Isa::baseline, combine_tiles};
