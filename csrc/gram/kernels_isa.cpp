#include "gram/kernels.h"

namespace fastgen {
namespace {
constexpr GramKernels COMPILED{gram_of_parts};
}
const GramKernels GramKernels::FASTGEN_ISA = COMPILED;
}  // namespace fastgen
