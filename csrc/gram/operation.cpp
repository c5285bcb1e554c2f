#include "gram/operation.h"

#include "common/isa.h"
#include "common/parallel.h"

namespace fastgen {

void gram(const Gram& op, int threads) {
  const auto kernel = kernels<GramKernels>().gram;
  const int64_t parts = op.parts();
  parallel_for(op.rows * parts, 1, threads,
               [&](int64_t begin, int64_t end, int) { kernel(op, begin, end); });
  const int n = op.inputs, entries = op.entries();
  for (int64_t row = 0; row < op.rows; ++row) {
    double* total = op.partials + row * parts * entries;  // the first part's place
    for (int64_t part = 1; part < parts; ++part)
      for (int e = 0; e < entries; ++e) total[e] += total[part * entries + e];
    double* to = op.output + row * (n + 1) * (n + 1);
    int e = 0;
    for (int i = 0; i < n; ++i)
      for (int j = i; j < n; ++j, ++e) to[i * (n + 1) + j] = to[j * (n + 1) + i] = total[e];
    for (int i = 0; i < n; ++i, ++e) to[i * (n + 1) + n] = to[n * (n + 1) + i] = total[e];
    to[n * (n + 1) + n] = static_cast<double>(op.elements);
  }
}

}  // namespace fastgen
