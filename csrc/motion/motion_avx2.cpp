#include "tiles.h"

const fastgen::MotionKernels fastgen::motion_avx2{walk_tiles};
