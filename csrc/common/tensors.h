// torch tensors from C++: what bindings that are called in every step check, without torch's
// headers.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "common/types.h"

namespace fastgen {

inline pybind11::object owned(PyObject* value) {
  if (!value) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(value);
}

inline pybind11::object attribute(PyObject* object, PyObject* name) {
  return owned(PyObject_GetAttr(object, name));
}

inline pybind11::object call(PyObject* object, PyObject* method) {
  return owned(PyObject_CallMethodNoArgs(object, method));
}

// A tensor in DLPack's C exchange interface (dlpack.h, version 1).
struct TensorView {
  void* data;
  int32_t device_type, device_id;
  int32_t dimensions;
  uint8_t kind, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

// That interface: what a tensor is, in one call of some tens of nanoseconds where each of its
// Python attributes takes as long. The layout is fixed within a major version.
struct ExchangeInterface {
  struct {
    uint32_t major, minor;
    void* previous;
  } version;
  void *allocate, *export_tensor, *import_tensor;
  int (*view)(void* tensor, TensorView* out);  // 0, or -1 with a Python error set
  void* stream;
};

// torch.Tensor, and by what its instances are looked at: null where torch has no such interface
// (before 2.10). Subclasses may have no memory and go through their attributes.
struct TensorType {
  PyTypeObject* type = nullptr;
  const ExchangeInterface* exchange = nullptr;
};

inline TensorType& tensor_type() {
  static TensorType known;
  return known;
}

// The capsule is None, or what the type has as `__dlpack_c_exchange_api__`.
inline void use_tensor_type(const pybind11::type& type, const pybind11::object& capsule) {
  const ExchangeInterface* found = nullptr;
  if (!capsule.is_none()) {
    found = static_cast<const ExchangeInterface*>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!found) throw pybind11::error_already_set();
    if (found->version.major != 1) found = nullptr;
  }
  type.inc_ref();  // for ever
  tensor_type() = {reinterpret_cast<PyTypeObject*>(type.ptr()), found};
}

inline bool is_plain(PyObject* tensor) { return Py_TYPE(tensor) == tensor_type().type; }

// False: ask for its attributes, which say what is wrong if something is.
inline bool look(PyObject* tensor, TensorView* view) {
  const ExchangeInterface* exchange = tensor_type().exchange;
  if (!exchange || !is_plain(tensor)) return false;
  if (exchange->view(tensor, view) == 0) return true;
  PyErr_Clear();
  return false;
}

inline void* address(const TensorView& view) {
  return static_cast<char*>(view.data) + view.byte_offset;
}

inline void* data_pointer(PyObject* tensor) {
  static PyObject* const DATA_PTR = PyUnicode_InternFromString("data_ptr");
  TensorView view;
  if (look(tensor, &view)) return address(view);
  return PyLong_AsVoidPtr(call(tensor, DATA_PTR).ptr());
}

// A floating-point dtype and a shape, as Python has them and as C++ has.
struct Kind {
  pybind11::object dtype;
  DType type = DType::float32;

  bool is(const TensorView& view) const {
    constexpr uint8_t FLOAT = 2, BFLOAT = 4;  // kDLFloat, kDLBfloat
    const int bits = type == DType::float64 ? 64 : type == DType::float32 ? 32 : 16;
    return view.kind == (type == DType::bfloat16 ? BFLOAT : FLOAT) && view.bits == bits &&
           view.lanes == 1;
  }
};

struct Shape {
  pybind11::tuple python;
  std::vector<int64_t> sizes;

  Shape() = default;
  explicit Shape(const pybind11::tuple& shape) : python(shape) {
    for (const auto& size : shape) sizes.push_back(size.cast<int64_t>());
  }

  // Whether it is the view's, with contiguous elements.
  bool is(const TensorView& view) const {
    if (view.dimensions != static_cast<int32_t>(sizes.size())) return false;
    bool empty = false, contiguous = true;
    int64_t stride = 1;
    for (int i = view.dimensions - 1; i >= 0; --i) {
      if (view.shape[i] != sizes[i]) return false;
      empty |= sizes[i] == 0;
      contiguous &= sizes[i] == 1 || view.strides[i] == stride;
      stride *= sizes[i];
    }
    return empty || contiguous;
  }
};

// The memory of a contiguous tensor on the CPU of this dtype and shape; false if it is not one.
inline bool memory(PyObject* tensor, const Kind& kind, const Shape& shape, void** found) {
  static PyObject* const DTYPE = PyUnicode_InternFromString("dtype");
  static PyObject* const SHAPE = PyUnicode_InternFromString("shape");
  static PyObject* const IS_CPU = PyUnicode_InternFromString("is_cpu");
  static PyObject* const IS_CONTIGUOUS = PyUnicode_InternFromString("is_contiguous");
  constexpr int32_t ON_CPU = 1;  // kDLCPU
  TensorView view;
  if (look(tensor, &view)) {
    *found = address(view);
    return view.device_type == ON_CPU && kind.is(view) && shape.is(view);
  }
  if (!PyObject_HasAttr(tensor, IS_CONTIGUOUS) ||
      attribute(tensor, DTYPE).ptr() != kind.dtype.ptr() ||
      attribute(tensor, IS_CPU).ptr() != Py_True ||
      PyObject_RichCompareBool(attribute(tensor, SHAPE).ptr(), shape.python.ptr(), Py_EQ) != 1 ||
      call(tensor, IS_CONTIGUOUS).ptr() != Py_True)
    return false;
  *found = data_pointer(tensor);
  return true;
}

}  // namespace fastgen
