// Memory for the arrays of one problem.
#pragma once
#include <algorithm>
#include <cstdint>
#include <new>
#include <utility>

namespace fastgen::assignment {

// Vectors of columns are read and written whole, at any width.
constexpr int64_t WIDEST = 16, LINE = 64;

// Arrays in one piece of memory, a few of them on the stack: to ask for that of each would take as
// long as a problem of some rows.
class Arrays {
 public:
  explicit Arrays(int64_t bytes)
      : more_(bytes > FEW ? static_cast<char*>(::operator new(bytes, std::align_val_t{LINE}))
                          : nullptr),
        next_(more_ ? more_ : few_) {}
  Arrays(const Arrays&) = delete;
  ~Arrays() { ::operator delete(more_, std::align_val_t{LINE}); }

  template <class T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(std::exchange(next_, next_ + bytes<T>(count)));
  }
  template <class T>
  T* filled(int64_t count, T value) {
    T* const first = take<T>(count);
    std::fill_n(first, count, value);
    return first;
  }
  template <class T>
  static int64_t bytes(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(T)) + LINE - 1) / LINE * LINE;
  }

 private:
  static constexpr int64_t FEW = 4096;
  alignas(LINE) char few_[FEW];
  char* const more_;
  char* next_;
};

}  // namespace fastgen::assignment
