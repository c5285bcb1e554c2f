// Ctrl-C in loops that run for seconds without the GIL.
#pragma once
#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>

namespace fastgen {

class Signals {
 public:
  // Whether to end early. Python is asked in the calling thread, 0; the others end when it does.
  bool stop(int thread) {
    if (stop_.load(std::memory_order_relaxed)) return true;
    if (thread != 0) return false;
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::milliseconds(50)) return false;
    last_ = now;
    const pybind11::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) stop_ = true;
    return stop_;
  }
  // With the GIL: raises what the handler did.
  void raise() const {
    if (stop_) throw pybind11::error_already_set();
  }

 private:
  std::atomic<bool> stop_{false};
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace fastgen
