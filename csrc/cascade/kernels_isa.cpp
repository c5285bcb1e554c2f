#include "cascade/kernels.h"

namespace fastgen {
namespace {
constexpr CascadeKernels COMPILED{cascade_elements};
}
const CascadeKernels CascadeKernels::FASTGEN_ISA = COMPILED;
}  // namespace fastgen
