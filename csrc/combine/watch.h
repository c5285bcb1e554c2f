// Attributes of an object that a prepared call depends on: as they were, and whether they still
// are.
#pragma once
#include <pybind11/pybind11.h>

#include <cstring>
#include <utility>
#include <vector>

#include "common/tensors.h"

namespace fastgen {

// Which object, and what a tensor held.
struct Attribute {
  pybind11::object name, value;
  std::vector<char> bytes;  // of a contiguous tensor on a CPU
  int64_t version = -1;     // of any other tensor: how often torch has written to it
};

// The memory of a contiguous tensor on a CPU and how many bytes it has; null for any other object,
// and for a tensor that is long to compare.
inline const char* table_memory(PyObject* object, int64_t* bytes) {
  constexpr int32_t CPU = 1;  // kDLCPU
  constexpr int64_t MOST = 65536;
  TensorView view;
  // Whether it stands for negatives is the object's own, which is compared as well.
  if (!look_at_memory(object, &view) || view.device_type != CPU) return nullptr;
  int64_t elements = 1;
  for (int32_t i = view.dimensions - 1; i >= 0; --i) {
    if (view.shape[i] > 1 && view.strides && view.strides[i] != elements) return nullptr;
    elements *= view.shape[i];
  }
  *bytes = elements * (view.bits * view.lanes / 8);
  return *bytes <= MOST ? static_cast<const char*>(address(view)) : nullptr;
}

// -1 of what has none: no tensor, or one made in inference mode.
inline int64_t version_of(PyObject* object) {
  static PyObject* const VERSION = PyUnicode_InternFromString("_version");
  PyObject* const found = PyObject_GetAttr(object, VERSION);
  if (!found) {
    PyErr_Clear();
    return -1;
  }
  const pybind11::object version = owned(found);
  if (!PyLong_CheckExact(found)) return -1;
  const int64_t value = PyLong_AsLongLong(found);
  if (PyErr_Occurred()) PyErr_Clear();
  return value;
}

class Watch {
 public:
  Watch(const pybind11::dict& own, const std::vector<pybind11::object>& names) {
    for (const pybind11::object& name : names) {
      Attribute seen{
          name, pybind11::reinterpret_borrow<pybind11::object>(find(own.ptr(), name)), {}, -1};
      int64_t bytes = 0;
      if (const char* memory = table_memory(seen.value.ptr(), &bytes))
        seen.bytes.assign(memory, memory + bytes);
      else
        seen.version = version_of(seen.value.ptr());
      attributes_.push_back(std::move(seen));
    }
  }

  bool unchanged(PyObject* own) const {
    for (const Attribute& seen : attributes_) {
      PyObject* const found = find(own, seen.name);
      if (found != seen.value.ptr()) return false;
      if (seen.version >= 0) {
        if (version_of(found) != seen.version) return false;
      } else if (!seen.bytes.empty()) {
        int64_t bytes = 0;
        const char* memory = table_memory(found, &bytes);
        if (!memory || bytes != static_cast<int64_t>(seen.bytes.size()) ||
            std::memcmp(memory, seen.bytes.data(), seen.bytes.size()) != 0)
          return false;
      }
    }
    return true;
  }

 private:
  // None also where there is no such attribute.
  static PyObject* find(PyObject* own, const pybind11::object& name) {
    PyObject* const found = PyDict_GetItemWithError(own, name.ptr());
    if (!found && PyErr_Occurred()) throw pybind11::error_already_set();
    return found ? found : Py_None;
  }

  std::vector<Attribute> attributes_;
};

}  // namespace fastgen
