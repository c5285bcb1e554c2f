#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "bridge/operation.h"
#include "dispatch.h"
#include "tensors.h"

namespace py = pybind11;

namespace fastgen {
namespace {

const BridgeKernels& kernels() {
  switch (isa_level()) {
#ifdef FASTGEN_X86
    case Isa::avx512: return bridge_avx512;
    case Isa::avx2: return bridge_avx2;
#endif
    default: return bridge_baseline;
  }
}

// Rows begin at multiples of this, so that no block of noise is computed by two threads twice.
constexpr int64_t ROW_GRAIN = 16;

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

DType dtype(int code) {
  if (code < 0 || code > 3) throw std::invalid_argument("unknown dtype code");
  return static_cast<DType>(code);
}

Sampling sampling(int code) {
  if (code < 0 || code > 2) throw std::invalid_argument("unknown sampling code");
  return static_cast<Sampling>(code);
}

// Address, dtype code, rows, address of the index or 0.
using ChoiceArguments = std::tuple<uintptr_t, int, int64_t, uintptr_t>;
// Seeds, number of seeds, sample ids, stream.
using NoiseArguments = std::tuple<uintptr_t, int64_t, uintptr_t, uint32_t>;

Noise noise(const NoiseArguments& arguments) {
  const auto& [seeds, count, sample_ids, stream] = arguments;
  return {at<const int64_t>(seeds), count > 1, at<const int64_t>(sample_ids), stream};
}

// The call, split over threads; false where an index was out of range.
bool run(Bridge& op, int threads) {
  std::atomic<bool> bad_index{false};
  op.bad_index = &bad_index;
  const auto kernel = kernels().bridge;
  if (threads <= 1) {
    kernel(op, 0, op.rows);
  } else {
    const int64_t units = (op.rows + ROW_GRAIN - 1) / ROW_GRAIN;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int i = 0; i < threads; ++i) {
      const int64_t first = units * i / threads * ROW_GRAIN;
      const int64_t last = units * (i + 1) / threads * ROW_GRAIN;
      if (first < last) kernel(op, first, last < op.rows ? last : op.rows);
    }
  }
  return !bad_index.load();
}

bool bridge(int64_t rows, int64_t elements, const ChoiceArguments& x0, const ChoiceArguments& x1,
            uintptr_t coefficients, bool is_recipe, uintptr_t times, uintptr_t quantiles,
            int64_t cells, int sampling_code, const NoiseArguments& noise_arguments,
            uint32_t time_stream, uintptr_t draw, bool noisy,
            const std::vector<std::pair<uintptr_t, int>>& outputs, uintptr_t times_out,
            int times_type, int threads) {
  if (outputs.size() > MAX_TARGETS) throw std::invalid_argument("too many outputs");
  Bridge op{};
  op.rows = rows;
  op.elements = elements;
  const ChoiceArguments* choices[2] = {&x0, &x1};
  for (int k = 0; k < 2; ++k) {
    const auto& [address, code, count, index] = *choices[k];
    op.x[k] = {at<const void>(address), dtype(code), count, at<const int64_t>(index)};
    op.float64 |= address && dtype(code) == DType::float64;
  }
  (is_recipe ? op.recipe : op.table) = at<const double>(coefficients);
  op.times = at<const double>(times);
  op.quantiles = at<const double>(quantiles);
  op.cells = cells;
  op.sampling = sampling(sampling_code);
  op.noise = noise(noise_arguments);
  op.time_stream = time_stream;
  op.draw = static_cast<uint32_t>(*at<const int64_t>(draw));
  op.noisy = noisy;
  for (const auto& [address, code] : outputs) {
    op.output[op.targets] = at<void>(address);
    op.output_type[op.targets++] = dtype(code);
    op.float64 |= dtype(code) == DType::float64;
  }
  op.times_out = at<void>(times_out);
  op.times_type = dtype(times_type);
  py::gil_scoped_release release;
  return run(op, threads);
}

// A described call with recipes and drawn times, on rows 0, 1, 2 ... of one seed. Each run brings
// the seed, the draw and the tensors.
struct Description {
  Bridge op{};
  py::tuple shape;  // of one row
  py::object dtype, index_dtype;
  std::vector<int64_t> ids;
};

// Whether a tensor is contiguous on the CPU, of this dtype and of rows of this shape; its length.
bool fits(PyObject* tensor, const py::object& dtype, const py::tuple& row, int64_t* count) {
  static PyObject* const IS_CONTIGUOUS = PyUnicode_InternFromString("is_contiguous");
  static PyObject* const DTYPE = PyUnicode_InternFromString("dtype");
  static PyObject* const SHAPE = PyUnicode_InternFromString("shape");
  static PyObject* const IS_CPU = PyUnicode_InternFromString("is_cpu");
  const auto kind = fastgen::attribute(tensor, DTYPE);
  if (!kind.is(dtype)) return false;
  const auto shape = fastgen::attribute(tensor, SHAPE);
  const Py_ssize_t size = PyTuple_GET_SIZE(row.ptr());
  if (PyTuple_GET_SIZE(shape.ptr()) != size + 1) return false;
  for (Py_ssize_t i = 0; i < size; ++i)
    if (PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), i + 1)) !=
        PyLong_AsLongLong(PyTuple_GET_ITEM(row.ptr(), i)))
      return false;
  *count = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), 0));
  const auto on_cpu = fastgen::attribute(tensor, IS_CPU);
  const auto contiguous = fastgen::call(tensor, IS_CONTIGUOUS);
  return on_cpu.ptr() == Py_True && contiguous.ptr() == Py_True;
}

// run(threads, seed, draw, x0, x1, index0, index1, t, outputs) -> whether the tensors fitted.
PyObject* run_description(PyObject* self, PyObject* const* args, Py_ssize_t count) try {
  const auto& description = *static_cast<Description*>(PyCapsule_GetPointer(self, nullptr));
  Bridge op = description.op;
  if (count != 9 || !PyList_Check(args[8]) || PyList_GET_SIZE(args[8]) != op.targets) {
    PyErr_SetString(PyExc_TypeError, "expected 9 arguments, the last a list of outputs");
    return nullptr;
  }
  const int64_t seed = static_cast<int64_t>(PyLong_AsUnsignedLongLongMask(args[1]));
  op.noise.seeds = &seed;
  op.noise.sample_ids = description.ids.data();
  op.draw = static_cast<uint32_t>(PyLong_AsUnsignedLongLongMask(args[2]));
  static const py::tuple none(0);
  for (int k = 0; k < 2; ++k) {
    PyObject *x = args[3 + k], *index = args[5 + k];
    if (x == Py_None) continue;
    if (!fits(x, description.dtype, description.shape, &op.x[k].count)) Py_RETURN_FALSE;
    op.x[k].rows = fastgen::data_pointer(x);
    if (index != Py_None) {
      int64_t rows;
      if (!fits(index, description.index_dtype, none, &rows) || rows != op.rows) Py_RETURN_FALSE;
      op.x[k].index = static_cast<const int64_t*>(fastgen::data_pointer(index));
    } else if (op.x[k].count != op.rows) {
      Py_RETURN_FALSE;
    }
  }
  op.times_out = fastgen::data_pointer(args[7]);
  for (int j = 0; j < op.targets; ++j)
    op.output[j] = fastgen::data_pointer(PyList_GET_ITEM(args[8], j));
  const int threads = static_cast<int>(PyLong_AsLong(args[0]));
  if (PyErr_Occurred()) return nullptr;
  bool in_range;
  if (op.size() < 16384) {
    in_range = run(op, threads);
  } else {
    py::gil_scoped_release release;
    in_range = run(op, threads);
  }
  if (!in_range) {
    PyErr_SetString(PyExc_ValueError, "index: an entry is outside the rows of its tensor");
    return nullptr;
  }
  Py_RETURN_TRUE;
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
}

py::object describe_bridge(int64_t rows, const py::tuple& shape, int64_t elements,
                           const py::object& dtype_, const py::object& index_dtype, int code,
                           uintptr_t recipe, int targets, bool noisy, uintptr_t quantiles,
                           int64_t cells, int sampling_code, uint32_t stream,
                           uint32_t time_stream, int times_type) {
  if (targets > MAX_TARGETS) throw std::invalid_argument("too many outputs");
  auto description = std::make_unique<Description>();
  Bridge& op = description->op;
  op.rows = rows;
  op.elements = elements;
  op.recipe = at<const double>(recipe);
  op.quantiles = at<const double>(quantiles);
  op.cells = cells;
  op.sampling = sampling(sampling_code);
  op.noise.stream = stream;
  op.in_order = rows < int64_t{1} << 32;
  op.time_stream = time_stream;
  op.noisy = noisy;
  op.float64 = dtype(code) == DType::float64;
  op.targets = targets;
  for (int k = 0; k < 2; ++k) op.x[k].type = dtype(code);
  for (int j = 0; j < targets; ++j) op.output_type[j] = dtype(code);
  op.times_type = dtype(times_type);
  description->shape = shape;
  description->dtype = dtype_;
  description->index_dtype = index_dtype;
  for (int64_t i = 0; i < rows; ++i) description->ids.push_back(i);
  static PyMethodDef method{
      "run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(run_description)),
      METH_FASTCALL, "run(threads, seed, draw, x0, x1, index0, index1, t, outputs) -> bool"};
  const py::capsule owner(description.release(),
                          [](void* owned) { delete static_cast<Description*>(owned); });
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, owner.ptr()));
}

void times(int64_t rows, uintptr_t quantiles, int64_t cells, int sampling_code,
           const NoiseArguments& noise_arguments, uintptr_t draw, uintptr_t output) {
  const Times op{rows,
                 at<const double>(quantiles),
                 cells,
                 sampling(sampling_code),
                 noise(noise_arguments),
                 static_cast<uint32_t>(*at<const int64_t>(draw)),
                 at<double>(output)};
  kernels().times(op, 0, rows);
}

}  // namespace

void bind_bridge(py::module_& m) {
  m.def("bridge", &bridge, "Whether all indices were in range.", py::arg("rows"),
        py::arg("elements"), py::arg("x0"), py::arg("x1"), py::arg("coefficients"),
        py::arg("is_recipe"), py::arg("times"), py::arg("quantiles"), py::arg("cells"),
        py::arg("sampling"), py::arg("noise"), py::arg("time_stream"), py::arg("draw"),
        py::arg("noisy"), py::arg("outputs"), py::arg("times_out"), py::arg("times_type"),
        py::arg("threads"));
  m.def("describe_bridge", &describe_bridge,
        "A function run(threads, seed, draw, x0, x1, index0, index1, t, outputs) -> bool.",
        py::arg("rows"), py::arg("shape"), py::arg("elements"), py::arg("dtype"),
        py::arg("index_dtype"), py::arg("code"), py::arg("recipe"), py::arg("targets"),
        py::arg("noisy"), py::arg("quantiles"), py::arg("cells"), py::arg("sampling"),
        py::arg("stream"), py::arg("time_stream"), py::arg("times_type"));
  m.def("times", &times, py::arg("rows"), py::arg("quantiles"), py::arg("cells"),
        py::arg("sampling"), py::arg("noise"), py::arg("draw"), py::arg("output"));
}

}  // namespace fastgen
