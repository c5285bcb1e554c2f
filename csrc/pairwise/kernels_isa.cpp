#include "pairwise/kernels.h"

namespace fastgen::pairwise {
namespace {
constexpr Kernels COMPILED{WIDTH<float>,      WIDTH<double>,     run_rows<float>,
                           run_rows<double>,  sweep_rows<float>, sweep_rows<double>,
                           again_rows<float>, again_rows<double>};
}
const Kernels Kernels::FASTGEN_ISA = COMPILED;
}  // namespace fastgen::pairwise
