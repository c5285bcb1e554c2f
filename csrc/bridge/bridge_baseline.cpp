#include "bridge/bridge.h"

const fastgen::BridgeKernels fastgen::bridge_baseline{bridge, times};
