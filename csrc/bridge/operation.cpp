#include "bridge/operation.h"

#include "common/isa.h"
#include "common/parallel.h"

namespace fastgen {

bool bridge(Bridge op, int threads) {
  // Rows begin at multiples of this, so that no block of noise is computed by two threads twice.
  constexpr int64_t ROW_GRAIN = 16;
  std::atomic<bool> bad_index{false};
  op.bad_index = &bad_index;
  const auto kernel = kernels<BridgeKernels>().bridge;
  parallel_for(op.rows, ROW_GRAIN, threads,
               [&](int64_t first, int64_t last, int) { kernel(op, first, last); });
  return !bad_index.load();
}

void times(const Times& op) { kernels<BridgeKernels>().times(op, 0, op.rows); }

}  // namespace fastgen
