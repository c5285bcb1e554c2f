#include "runge_kutta/kernels.h"

namespace fastgen {
namespace {
constexpr RungeKuttaKernels COMPILED{stage, control, commit, take, probe, first, start};
}
const RungeKuttaKernels RungeKuttaKernels::FASTGEN_ISA = COMPILED;
}  // namespace fastgen
