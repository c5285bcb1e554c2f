// DLPack's C exchange interface (dlpack.h, version 1): what a tensor is, in one call of some tens
// of nanoseconds where each of its Python attributes takes as long. Laid out here because neither
// torch's headers nor DLPack's are needed to build; the layout is fixed within a major version.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>

namespace fastgen {

struct TensorView {
  void* data;
  int32_t device_type, device_id;
  int32_t dimensions;
  uint8_t kind, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct ExchangeInterface {
  struct {
    uint32_t major, minor;
    void* previous;
  } version;
  void *allocate, *export_tensor, *import_tensor;
  int (*view)(void* tensor, TensorView* out);  // 0, or -1 with a Python error set
  void* stream;
};

constexpr int32_t ON_CPU = 1;  // kDLCPU

// The interface in the capsule that a tensor type has, or null where there is none to use.
inline const ExchangeInterface* exchange_interface(const pybind11::object& capsule) {
  if (capsule.is_none()) return nullptr;
  const auto* found = static_cast<const ExchangeInterface*>(
      PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!found) throw pybind11::error_already_set();
  return found->version.major == 1 ? found : nullptr;
}

}  // namespace fastgen
