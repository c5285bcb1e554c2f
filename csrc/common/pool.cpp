#include "common/pool.h"

#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "common/tensors.h"

namespace py = pybind11;

namespace fastgen {
namespace {

// DLPack's structures, as its specification lays them out (version 0.8, unversioned capsules).
struct DLTensor {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t dims;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t *shape, *strides;
  uint64_t offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
constexpr uint8_t REAL = 2;

struct Owned {
  DLManagedTensor managed;
  std::vector<int64_t> shape;
  int64_t bytes;
};

}  // namespace

py::object pooled_tensor(const py::tuple& shape, bool float64) {
  static PyObject* const FROM =
      py::object(py::module_::import("torch.utils.dlpack").attr("from_dlpack")).release().ptr();
  auto owner = std::make_unique<Owned>();
  int64_t bytes = float64 ? 8 : 4;
  for (const auto& length : shape) {
    owner->shape.push_back(py::cast<int64_t>(length));
    if (owner->shape.back() < 0 || __builtin_mul_overflow(bytes, owner->shape.back(), &bytes))
      throw std::invalid_argument("shape: expected sizes >= 0 whose product is a number of bytes");
  }
  owner->bytes = bytes;
  DLManagedTensor& managed = owner->managed;
  managed.tensor = {take_memory(bytes),
                    {ON_CPU, 0},
                    static_cast<int32_t>(owner->shape.size()),
                    {REAL, static_cast<uint8_t>(float64 ? 64 : 32), 1},
                    owner->shape.data(),
                    nullptr,
                    0};
  managed.context = owner.get();
  managed.deleter = [](DLManagedTensor* self) {
    const std::unique_ptr<Owned> ended(static_cast<Owned*>(self->context));
    give_memory(self->tensor.data, ended->bytes);
  };
  // torch renames the capsule when it takes over; one that it refused still owns the memory.
  const py::object capsule =
      owned(PyCapsule_New(&owner.release()->managed, "dltensor", [](PyObject* left) {
        if (!PyCapsule_IsValid(left, "dltensor")) return;
        auto* const tensor = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(left, "dltensor"));
        tensor->deleter(tensor);
      }));
  return owned(PyObject_CallOneArg(FROM, capsule.ptr()));
}

py::object whole_numbers(int64_t count, int64_t** numbers) {
  const ExchangeInterface* const exchange = tensor_type().exchange;
  if (!exchange) return py::none();
  constexpr uint8_t INTEGER = 0, BITS = 64;
  struct Made {
    ManagedTensor managed;
    int64_t count, stride;
  };
  char* const memory = static_cast<char*>(::operator new(sizeof(Made) + 8 * count));
  *numbers = reinterpret_cast<int64_t*>(memory + sizeof(Made));
  Made* const made = new (memory) Made{{}, count, 1};
  made->managed = {{1, 0},
                   made,
                   [](ManagedTensor* self) { ::operator delete(self->owner); },
                   0,
                   {*numbers, ON_CPU, 0, 1, INTEGER, BITS, 1, &made->count, &made->stride, 0}};
  void* tensor = nullptr;
  if (exchange->import_tensor(&made->managed, &tensor) != 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(tensor));
}

void bind_pool(py::module_& m) {
  m.attr("POOLED_FROM") = POOLED_FROM;
  m.def("pooled", &pooled_tensor, "An uninitialised tensor on memory that is kept.",
        py::arg("shape"), py::arg("float64"));
}

}  // namespace fastgen
