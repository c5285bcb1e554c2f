// What the bindings of all operations do with their arguments: addresses, dtype codes, noises, and
// functions that Python calls thousands of times.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "common/tensors.h"
#include "common/types.h"

namespace fastgen {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

inline DType dtype_from(int code) {
  if (code < 0 || code > 3) throw std::invalid_argument("unknown dtype code");
  return static_cast<DType>(code);
}

// Addresses and dtype codes; inputs without an address come with the call.
using Inputs = std::vector<std::pair<std::optional<uintptr_t>, int>>;
using Outputs = std::vector<std::pair<uintptr_t, int>>;
// Seeds, number of seeds, sample ids, stream.
using NoiseArguments = std::tuple<uintptr_t, int64_t, uintptr_t, uint32_t>;

inline Noise noise_from(uintptr_t seeds, int64_t seed_count, uintptr_t sample_ids,
                        uint32_t stream) {
  return {pointer<const int64_t>(seeds), seed_count > 1, pointer<const int64_t>(sample_ids),
          stream};
}

inline Noise noise_from(const NoiseArguments& arguments) {
  const auto& [seeds, seed_count, sample_ids, stream] = arguments;
  return noise_from(seeds, seed_count, sample_ids, stream);
}

// Those without an address are noted in `missing`. Arithmetic is float64 where any tensor is.
template <class Operation>
void set_inputs(Operation& op, const Inputs& inputs, std::vector<int>* missing) {
  for (const auto& [address, code] : inputs) {
    if (!address) missing->push_back(op.inputs);
    op.input[op.inputs] = pointer<const void>(address.value_or(0));
    op.input_type[op.inputs++] = dtype_from(code);
    op.float64 |= dtype_from(code) == DType::float64;
  }
}

template <class Operation>
void set_outputs(Operation& op, const Outputs& outputs) {
  for (const auto& [address, code] : outputs) {
    op.output[op.outputs] = pointer<void>(address);
    op.output_type[op.outputs++] = dtype_from(code);
    op.float64 |= dtype_from(code) == DType::float64;
  }
}

// Work on so many elements, without the GIL where that pays: to release it takes about 0.1 us.
template <class Work>
auto without_gil(int64_t elements, const Work& work) {
  constexpr int64_t RELEASE_FROM = 16384;
  if (elements < RELEASE_FROM) return work();
  const pybind11::gil_scoped_release release;
  return work();
}

// A bare CPython function that owns a State: a third of what pybind11's dispatch costs. Its `self`
// is a capsule, see `state_of`.
template <class State>
pybind11::object bare_function(PyMethodDef& method, std::unique_ptr<State> state) {
  const pybind11::capsule owner(state.release(),
                                [](void* held) { delete static_cast<State*>(held); });
  return owned(PyCFunction_New(&method, owner.ptr()));
}

template <class State>
State& state_of(PyObject* self) {
  return *static_cast<State*>(PyCapsule_GetPointer(self, nullptr));
}

using BareFunction = PyObject* (*)(PyObject* self, PyObject* const* arguments, Py_ssize_t count);

inline PyMethodDef bare_method(const char* name, BareFunction function, const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)),
          METH_FASTCALL, doc};
}

}  // namespace fastgen
