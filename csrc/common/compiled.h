// Functions that another compiler made, by address.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace fastgen {

// A call of an extern "C" function of pointers and int64 without a result. In the calling
// conventions of x86-64 and AArch64 both kinds go the same way.
class CompiledCall {
 public:
  static constexpr size_t MOST = 40;

  CompiledCall(uintptr_t code, std::vector<int64_t> arguments)
      : code_(code), arguments_(std::move(arguments)) {
    if (arguments_.empty() || arguments_.size() > MOST)
      throw std::invalid_argument("CompiledCall: expected 1 to 40 arguments");
    caller_ = find(std::make_index_sequence<MOST>());
  }
  void operator()() const { caller_(code_, arguments_.data()); }

 private:
  using Caller = void (*)(uintptr_t, const int64_t*);

  template <size_t... I>
  static void call(uintptr_t code, const int64_t* x, std::index_sequence<I...>) {
    reinterpret_cast<void (*)(decltype(x[I] + 0)...)>(code)(x[I]...);
  }
  template <size_t COUNT>
  static void call_with(uintptr_t code, const int64_t* x) {
    call(code, x, std::make_index_sequence<COUNT>());
  }
  template <size_t... I>
  Caller find(std::index_sequence<I...>) const {
    static constexpr Caller callers[] = {&call_with<I + 1>...};
    return callers[arguments_.size() - 1];
  }

  uintptr_t code_;
  std::vector<int64_t> arguments_;
  Caller caller_;
};

}  // namespace fastgen
