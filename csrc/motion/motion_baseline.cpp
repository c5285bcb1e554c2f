#include "tiles.h"

const fastgen::MotionKernels fastgen::motion_baseline{walk_tiles};
