#include "assignment/scan.h"

const fastgen::assignment::Kernels fastgen::assignment::baseline_kernels =
    FASTGEN_ASSIGNMENT_KERNELS;
