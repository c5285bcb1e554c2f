// Memory of large results and states. What is fresh from the system costs more in page faults than
// a kernel takes to fill it, and the C library gives blocks of some megabytes back each time. Here
// they are kept for the next user of the same size.
#pragma once
#include <cstdint>
#include <memory>

namespace fastgen {

// Bytes from where memory is kept.
constexpr int64_t POOLED_FROM = int64_t{1} << 18;
// Bytes that are kept at most while nobody uses them: the 32nd part of the machine's memory, 128 to
// 512 MiB.
int64_t pooled_idle();

void* take_memory(int64_t bytes);
// From any thread.
void give_memory(void* memory, int64_t bytes);

struct GiveBack {
  int64_t bytes = 0;
  void operator()(void* memory) const { give_memory(memory, bytes); }
};
template <class T>
using Pooled = std::unique_ptr<T[], GiveBack>;

template <class T>
Pooled<T> pooled(int64_t count) {
  const int64_t bytes = count * int64_t{sizeof(T)};
  return {static_cast<T*>(take_memory(bytes)), GiveBack{bytes}};
}

}  // namespace fastgen
