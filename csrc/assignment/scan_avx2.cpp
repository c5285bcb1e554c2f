#include "assignment/scan.h"

const fastgen::assignment::Kernels fastgen::assignment::avx2_kernels =
    FASTGEN_ASSIGNMENT_KERNELS;
