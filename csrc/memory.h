// Memory of large results and states. What is fresh from the system costs more in page faults than
// a kernel takes to fill it, and the C library gives blocks of some megabytes back each time. Here
// they are kept for the next user of the same size.
#pragma once
#include <cstdint>
#include <memory>

namespace fastgen {

// Bytes from where memory is kept, and that are kept at most while nobody uses them.
constexpr int64_t POOLED_FROM = int64_t{1} << 19, POOLED_IDLE = int64_t{1} << 27;

void* take_memory(int64_t bytes);
// From any thread.
void give_memory(void* memory, int64_t bytes);

struct GiveBack {
  int64_t bytes = 0;
  void operator()(double* memory) const { give_memory(memory, bytes); }
};
using PooledDoubles = std::unique_ptr<double[], GiveBack>;

inline PooledDoubles pooled_doubles(int64_t count) {
  const int64_t bytes = count * int64_t{sizeof(double)};
  return {static_cast<double*>(take_memory(bytes)), GiveBack{bytes}};
}

}  // namespace fastgen
