#include "rows.h"

const fastgen::IntegrateKernels fastgen::integrate_baseline{Isa::baseline, stage, control, commit,
                                                        probe,     first, start};
