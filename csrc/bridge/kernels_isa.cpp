#include "bridge/kernels.h"

namespace fastgen {
namespace {
constexpr BridgeKernels COMPILED{bridge_rows, times_of_rows};
}
const BridgeKernels BridgeKernels::FASTGEN_ISA = COMPILED;
}  // namespace fastgen
