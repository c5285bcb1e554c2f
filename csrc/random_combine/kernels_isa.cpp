#include "random_combine/kernels.h"

namespace fastgen {
namespace {
constexpr RandomCombineKernels COMPILED{combine_elements};
}
const RandomCombineKernels RandomCombineKernels::FASTGEN_ISA = COMPILED;
}  // namespace fastgen
