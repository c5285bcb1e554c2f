// Work that is shared out over OpenMP's threads. (The assignment has its own threads, which
// outlive a job and survive a fork: assignment/team.h.)
#pragma once
#include <algorithm>
#include <cstdint>
#ifdef __SANITIZE_THREAD__
#include <thread>
#include <vector>
#endif

namespace fastgen {

// work(begin, end, thread) for at most `threads` contiguous parts of [0, count), all of which begin
// at multiples of `unit`. No part is empty.
template <class Work>
void parallel_for(int64_t count, int64_t unit, int threads, const Work& work) {
  if (count <= 0) return;
  if (threads <= 1) return work(int64_t{0}, count, 0);
  const int64_t units = (count + unit - 1) / unit;
  const auto part = [&](int i) {
    const int64_t begin = units * i / threads * unit;
    const int64_t end = std::min(units * (i + 1) / threads * unit, count);
    if (begin < end) work(begin, end, i);
  };
#ifdef __SANITIZE_THREAD__  // it does not see how OpenMP's threads wait for each other
  std::vector<std::thread> team;
  for (int i = 0; i < threads; ++i) team.emplace_back(part, i);
  for (std::thread& member : team) member.join();
#else
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; ++i) part(i);
#endif
}

// kernel(op, begin, end) over the elements of the flattened tensors. Parts begin where rows do and
// at multiples of GRAIN elements if rows are longer than that, so that no two threads share a cache
// line of an aligned output and no block of noise is computed twice.
template <class Operation>
void over_elements(void (*kernel)(const Operation&, int64_t, int64_t), const Operation& op,
                   int threads) {
  constexpr int64_t GRAIN = 1024;
  const int64_t elements = std::max<int64_t>(op.elements, 1);
  const int64_t unit = elements < GRAIN ? GRAIN / elements * elements : GRAIN;
  parallel_for(op.size(), unit, threads,
               [&](int64_t begin, int64_t end, int) { kernel(op, begin, end); });
}

}  // namespace fastgen
