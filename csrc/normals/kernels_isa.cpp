#include "normals/kernels.h"

namespace fastgen {
namespace {
constexpr NormalsKernels COMPILED{normals_of_elements, philox_words};
}
const NormalsKernels NormalsKernels::FASTGEN_ISA = COMPILED;
}  // namespace fastgen
