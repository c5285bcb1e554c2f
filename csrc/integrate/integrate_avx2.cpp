#include "rows.h"

const fastgen::IntegrateKernels fastgen::integrate_avx2{Isa::avx2, stage, control, commit,
                                                        probe,     first, start};
