#include "assignment/scan.h"

const fastgen::assignment::Kernels fastgen::assignment::avx512_kernels =
    FASTGEN_ASSIGNMENT_KERNELS;
