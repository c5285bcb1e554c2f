#include "bridge/bridge.h"

const fastgen::BridgeKernels fastgen::bridge_avx2{bridge, times};
