#include "brownian/kernels.h"
#include "brownian/motion/tiles.h"

namespace fastgen {
namespace {
constexpr BrownianKernels COMPILED{brownian_of_elements, walk_tiles};
}
const BrownianKernels BrownianKernels::FASTGEN_ISA = COMPILED;
}  // namespace fastgen
