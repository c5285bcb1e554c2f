#include "combine/kernels.h"

namespace fastgen {
namespace {
constexpr CombineKernels COMPILED{combine_elements};
}
const CombineKernels CombineKernels::FASTGEN_ISA = COMPILED;
}  // namespace fastgen
