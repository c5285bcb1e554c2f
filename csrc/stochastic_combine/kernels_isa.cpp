#include "stochastic_combine/kernels.h"

namespace fastgen {
namespace {
constexpr StochasticCombineKernels COMPILED{combine_elements};
}
const StochasticCombineKernels StochasticCombineKernels::FASTGEN_ISA = COMPILED;
}  // namespace fastgen
