#include "memory.h"

#include <cstdlib>
#include <deque>
#include <iterator>
#include <mutex>
#include <new>
#include <utility>

namespace fastgen {
namespace {

struct Pool {
  std::mutex busy;
  std::deque<std::pair<void*, int64_t>> idle;  // oldest first
  int64_t held = 0;
};

Pool& pool() {
  static Pool* const only = new Pool;  // outlives every tensor
  return *only;
}

}  // namespace

void* take_memory(int64_t bytes) {
  Pool& p = pool();
  {
    const std::lock_guard<std::mutex> lock(p.busy);
    for (auto it = p.idle.rbegin(); it != p.idle.rend(); ++it) {
      if (it->second != bytes) continue;
      void* const found = it->first;
      p.idle.erase(std::next(it).base());
      p.held -= bytes;
      return found;
    }
  }
  void* memory = nullptr;
  if (posix_memalign(&memory, 4096, static_cast<size_t>(bytes))) throw std::bad_alloc();
  return memory;
}

void give_memory(void* memory, int64_t bytes) {
  if (bytes < POOLED_FROM) return std::free(memory);
  Pool& p = pool();
  const std::lock_guard<std::mutex> lock(p.busy);
  p.idle.emplace_back(memory, bytes);
  for (p.held += bytes; p.held > POOLED_IDLE; p.idle.pop_front()) {
    std::free(p.idle.front().first);
    p.held -= p.idle.front().second;
  }
}

}  // namespace fastgen
