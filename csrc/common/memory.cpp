#include "common/memory.h"

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <mutex>
#include <new>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace fastgen {
namespace {

constexpr size_t PAGE = 4096, LARGE_PAGE = size_t{1} << 21;

// In large pages, where the system has them: the first writing of a matrix costs half as much.
void* fresh_memory(size_t bytes) {
  const bool large = bytes >= LARGE_PAGE;
  void* memory = nullptr;
  if (posix_memalign(&memory, large ? LARGE_PAGE : PAGE, bytes)) throw std::bad_alloc();
#ifdef __linux__
  if (large) madvise(memory, bytes / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
#endif
  return memory;
}

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

int64_t pooled_idle() {
  constexpr int64_t LEAST = int64_t{1} << 27, MOST = int64_t{1} << 29;
#ifdef __linux__
  static const int64_t found =
      std::clamp(int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE) / 32, LEAST, MOST);
  return found;
#else
  return LEAST;
#endif
}

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
  return fresh_memory(static_cast<size_t>(bytes));
}

void give_memory(void* memory, int64_t bytes) {
  if (bytes < POOLED_FROM) return std::free(memory);
  const int64_t most = pooled_idle();
  Pool& p = pool();
  const std::lock_guard<std::mutex> lock(p.busy);
  p.idle.emplace_back(memory, bytes);
  for (p.held += bytes; p.held > most; p.idle.pop_front()) {
    std::free(p.idle.front().first);
    p.held -= p.idle.front().second;
  }
}

}  // namespace fastgen
