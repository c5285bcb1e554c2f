// Tensors on memory that is kept (common/memory.h).
#pragma once
#include <pybind11/pybind11.h>

#include "common/memory.h"

namespace fastgen {

// An uninitialised contiguous float32 or float64 tensor of this shape, whose memory goes back to
// the pool with its last user, in whatever thread that is.
pybind11::object pooled_tensor(const pybind11::tuple& shape, bool float64);

// An uninitialised int64 tensor [count], count > 0, and its numbers: a third of the time that
// torch's own functions take. None where torch has no interface to make one.
pybind11::object whole_numbers(int64_t count, int64_t** numbers);

void bind_pool(pybind11::module_& m);

}  // namespace fastgen
