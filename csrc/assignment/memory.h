// Pages of large arrays.
#pragma once
#include <cstddef>
#include <cstdint>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fastgen::assignment {

// Asks for large pages, where the system has them and before an array is written: of a matrix the
// first writing costs half as much. Refusal changes nothing.
inline void want_large_pages(void* array, size_t bytes) {
#ifdef __linux__
  constexpr uintptr_t PAGE = uintptr_t{1} << 21;
  const auto address = reinterpret_cast<uintptr_t>(array);
  const uintptr_t begin = (address + PAGE - 1) / PAGE * PAGE, end = (address + bytes) / PAGE * PAGE;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  static_cast<void>(array);
  static_cast<void>(bytes);
#endif
}

}  // namespace fastgen::assignment
