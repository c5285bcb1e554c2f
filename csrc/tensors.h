// torch tensors through Python's C interface: what bindings that are called in every step check.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>

namespace fastgen {

// Elements from where releasing the GIL, about 0.1 us, stops being noticeable.
constexpr int64_t RELEASE_GIL_FROM = 16384;

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

inline void* data_pointer(PyObject* tensor) {
  static PyObject* const DATA_PTR = PyUnicode_InternFromString("data_ptr");
  return PyLong_AsVoidPtr(call(tensor, DATA_PTR).ptr());
}

// Whether something is a contiguous tensor on the CPU, of this dtype and shape.
inline bool fits(PyObject* tensor, PyObject* dtype, PyObject* shape) {
  static PyObject* const DTYPE = PyUnicode_InternFromString("dtype");
  static PyObject* const SHAPE = PyUnicode_InternFromString("shape");
  static PyObject* const IS_CPU = PyUnicode_InternFromString("is_cpu");
  static PyObject* const IS_CONTIGUOUS = PyUnicode_InternFromString("is_contiguous");
  return PyObject_HasAttr(tensor, IS_CONTIGUOUS) && attribute(tensor, DTYPE).ptr() == dtype &&
         attribute(tensor, IS_CPU).ptr() == Py_True &&
         PyObject_RichCompareBool(attribute(tensor, SHAPE).ptr(), shape, Py_EQ) == 1 &&
         call(tensor, IS_CONTIGUOUS).ptr() == Py_True;
}

}  // namespace fastgen
