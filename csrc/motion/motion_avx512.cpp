#include "tiles.h"

const fastgen::MotionKernels fastgen::motion_avx512{walk_tiles};
