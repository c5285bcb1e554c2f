#include "bridge/bridge.h"

const fastgen::BridgeKernels fastgen::bridge_avx512{bridge, times};
