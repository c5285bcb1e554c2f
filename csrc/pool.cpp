#include "pool.h"

#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "tensors.h"

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
constexpr int32_t ON_CPU = 1;
constexpr uint8_t REAL = 2;

class Pool {
 public:
  void* take(int64_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(busy);
      for (auto it = idle.rbegin(); it != idle.rend(); ++it) {
        if (it->second != bytes) continue;
        void* const found = it->first;
        idle.erase(std::next(it).base());
        held -= bytes;
        return found;
      }
    }
    void* memory = nullptr;
    if (posix_memalign(&memory, 4096, static_cast<size_t>(bytes))) throw std::bad_alloc();
    return memory;
  }

  void give(void* memory, int64_t bytes) {
    const std::lock_guard<std::mutex> lock(busy);
    idle.emplace_back(memory, bytes);
    for (held += bytes; held > POOLED_IDLE; idle.pop_front()) {
      std::free(idle.front().first);
      held -= idle.front().second;
    }
  }

 private:
  std::mutex busy;
  std::deque<std::pair<void*, int64_t>> idle;  // oldest first
  int64_t held = 0;
};

Pool& pool() {
  static Pool* const only = new Pool;  // outlives every tensor
  return *only;
}

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
    bytes *= owner->shape.back();
  }
  owner->bytes = bytes;
  DLManagedTensor& managed = owner->managed;
  managed.tensor = {pool().take(bytes),
                    {ON_CPU, 0},
                    static_cast<int32_t>(owner->shape.size()),
                    {REAL, static_cast<uint8_t>(float64 ? 64 : 32), 1},
                    owner->shape.data(),
                    nullptr,
                    0};
  managed.context = owner.get();
  managed.deleter = [](DLManagedTensor* self) {
    const std::unique_ptr<Owned> ended(static_cast<Owned*>(self->context));
    pool().give(self->tensor.data, ended->bytes);
  };
  // torch renames the capsule when it takes over; one that it refused still owns the memory.
  const py::object capsule =
      owned(PyCapsule_New(&owner.release()->managed, "dltensor", [](PyObject* left) {
        if (!PyCapsule_IsValid(left, "dltensor")) return;
        auto* const tensor =
            static_cast<DLManagedTensor*>(PyCapsule_GetPointer(left, "dltensor"));
        tensor->deleter(tensor);
      }));
  return owned(PyObject_CallOneArg(FROM, capsule.ptr()));
}

}  // namespace fastgen
