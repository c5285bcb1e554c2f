// Memory of large results. A fresh tensor of some megabytes costs more in page faults than a kernel
// takes to fill it, and the C library gives such memory back to the system each time. What results
// leave behind is kept here for the next ones of the same size.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>

namespace fastgen {

// Bytes from where a result's memory is kept.
constexpr int64_t POOLED_FROM = int64_t{1} << 19;
// Bytes that are kept at most while nobody uses them.
constexpr int64_t POOLED_IDLE = int64_t{1} << 27;

// An uninitialised contiguous float32 or float64 tensor of this shape, whose memory goes back to the
// pool with its last user, in whatever thread that is.
pybind11::object pooled_tensor(const pybind11::tuple& shape, bool float64);

}  // namespace fastgen
