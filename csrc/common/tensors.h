// torch tensors from C++: what bindings that are called in every step check, without torch's
// headers.
#pragma once
#include <pybind11/pybind11.h>

#include <algorithm>
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

// A tensor that whoever has it last gives back, in the interface's version 1.
struct ManagedTensor {
  struct {
    uint32_t major, minor;
  } version;
  void* owner;
  void (*deleter)(ManagedTensor*);
  uint64_t flags;
  TensorView tensor;
};

// That interface: what a tensor is, in one call of some tens of nanoseconds where each of its
// Python attributes takes as long. The layout is fixed within a major version.
struct ExchangeInterface {
  struct {
    uint32_t major, minor;
    void* previous;
  } version;
  void *allocate, *export_tensor;
  int (*import_tensor)(ManagedTensor* tensor, void** out);  // as `view`
  int (*view)(void* tensor, TensorView* out);               // 0, or -1 with a Python error set
  void* stream;
};

// torch.Tensor, and by what its instances are looked at: `exchange` is null where torch has no such
// interface (before 2.10). Python's functions address(tensor) and readable(tensor, name) do what
// C++ cannot, and say why a tensor has no memory of its own.
struct TensorType {
  PyTypeObject* type = nullptr;
  const ExchangeInterface* exchange = nullptr;
  PyObject *is_negative = nullptr, *address = nullptr, *readable = nullptr;
};

inline TensorType& tensor_type() {
  static TensorType known;
  return known;
}

// The capsule is None, or what the type has as `__dlpack_c_exchange_api__`.
inline void use_tensor_type(const pybind11::type& type, const pybind11::object& capsule,
                            const pybind11::object& address, const pybind11::object& readable) {
  const ExchangeInterface* found = nullptr;
  if (!capsule.is_none()) {
    found = static_cast<const ExchangeInterface*>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!found) throw pybind11::error_already_set();
    if (found->version.major != 1) found = nullptr;
  }
  const auto forever = [](pybind11::object kept) { return kept.release().ptr(); };
  tensor_type() = {reinterpret_cast<PyTypeObject*>(forever(type)), found,
                   forever(type.attr("is_neg")), forever(address), forever(readable)};
}

inline bool is_plain(PyObject* tensor) { return Py_TYPE(tensor) == tensor_type().type; }

inline void* address(const TensorView& view) {
  return static_cast<char*>(view.data) + view.byte_offset;
}

inline bool is_empty(const TensorView& view) {
  for (int i = 0; i < view.dimensions; ++i)
    if (view.shape[i] == 0) return true;
  return false;
}

inline bool is_contiguous(const TensorView& view) {
  int64_t stride = 1;
  for (int i = view.dimensions - 1; i >= 0; --i) {
    if (view.shape[i] != 1 && view.strides[i] != stride) return is_empty(view);
    stride *= view.shape[i];
  }
  return true;
}

// Whether a tensor or an instance of a subclass has memory: no wrapper of other tensors, no tensor
// of zeros without any. False also where torch has no interface to tell: ask Python.
inline bool look_at_memory(PyObject* tensor, TensorView* view) {
  const TensorType& known = tensor_type();
  if (!known.exchange || !(is_plain(tensor) || PyObject_TypeCheck(tensor, known.type)))
    return false;
  if (known.exchange->view(tensor, view) != 0) {
    PyErr_Clear();
    return false;
  }
  return view->data || is_empty(*view);
}

// Whether it has its numbers there, as they are: no view that stands for the negatives of what lies
// in memory.
inline bool look(PyObject* tensor, TensorView* view) {
  if (!look_at_memory(tensor, view)) return false;
  PyObject* const arguments[] = {tensor};
  const auto negative =
      owned(PyObject_Vectorcall(tensor_type().is_negative, arguments, 1, nullptr));
  return negative.ptr() == Py_False;
}

constexpr int32_t ON_CPU = 1;  // kDLCPU

// Where the numbers of a contiguous tensor on the CPU lie. Anything else is an exception that says
// what is wrong. This is the only way from a tensor to an address.
inline void* data_pointer(PyObject* tensor) {
  TensorView view;
  if (look(tensor, &view) && view.device_type == ON_CPU && is_contiguous(view))
    return address(view);
  const auto found = owned(PyObject_CallOneArg(tensor_type().address, tensor));
  void* const pointer = PyLong_AsVoidPtr(found.ptr());
  if (!pointer && PyErr_Occurred()) throw pybind11::error_already_set();
  return pointer;
}

// Whether `data_pointer` finds one.
inline bool has_address(PyObject* tensor) try {
  TensorView view;
  if (look(tensor, &view)) return view.device_type == ON_CPU && is_contiguous(view);
  if (tensor_type().exchange) return false;
  data_pointer(tensor);
  return true;
} catch (pybind11::error_already_set& error) {
  if (!error.matches(PyExc_ValueError)) throw;
  return false;
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
    return view.dimensions == static_cast<int32_t>(sizes.size()) &&
           std::equal(sizes.begin(), sizes.end(), view.shape) && is_contiguous(view);
  }
};

// The memory of a contiguous tensor on the CPU of this dtype and shape; false if it is not one.
inline bool memory(PyObject* tensor, const Kind& kind, const Shape& shape, void** found) {
  static PyObject* const DTYPE = PyUnicode_InternFromString("dtype");
  static PyObject* const SHAPE = PyUnicode_InternFromString("shape");
  static PyObject* const IS_CPU = PyUnicode_InternFromString("is_cpu");
  static PyObject* const IS_CONTIGUOUS = PyUnicode_InternFromString("is_contiguous");
  TensorView view;
  if (look(tensor, &view)) {
    *found = address(view);
    return view.device_type == ON_CPU && kind.is(view) && shape.is(view);
  }
  if (tensor_type().exchange || !PyObject_TypeCheck(tensor, tensor_type().type) ||
      attribute(tensor, DTYPE).ptr() != kind.dtype.ptr() ||
      attribute(tensor, IS_CPU).ptr() != Py_True ||
      PyObject_RichCompareBool(attribute(tensor, SHAPE).ptr(), shape.python.ptr(), Py_EQ) != 1 ||
      call(tensor, IS_CONTIGUOUS).ptr() != Py_True)
    return false;
  if (!has_address(tensor)) return false;
  *found = data_pointer(tensor);
  return true;
}

// address(tensor) -> int, for Python.
inline PyObject* python_address(PyObject*, PyObject* tensor) try {
  return PyLong_FromVoidPtr(data_pointer(tensor));
} catch (pybind11::error_already_set& error) {
  error.restore();
  return nullptr;
}

// readable(tensor, name = "") -> the tensor itself, or one of the same numbers that has an address.
inline PyObject* python_readable(PyObject*, PyObject* const* args, Py_ssize_t count) try {
  if (count < 1 || count > 2) {
    PyErr_SetString(PyExc_TypeError, "expected readable(tensor, name)");
    return nullptr;
  }
  TensorView view;
  if (look(args[0], &view) && is_contiguous(view)) return Py_NewRef(args[0]);
  return PyObject_Vectorcall(tensor_type().readable, args, count, nullptr);
} catch (pybind11::error_already_set& error) {
  error.restore();
  return nullptr;
}

}  // namespace fastgen
