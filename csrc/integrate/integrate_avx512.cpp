#include "rows.h"

const fastgen::IntegrateKernels fastgen::integrate_avx512{Isa::avx512, stage, control, commit,
                                                        probe,     first, start};
