#include <cstdlib>
#include <cstring>

#include "bridge/operation.h"
#include "common/bindings.h"
#include "common/pool.h"

namespace py = pybind11;

namespace fastgen {
namespace {

Sampling sampling_from(int code) {
  if (code < 0 || code > 2) throw std::invalid_argument("unknown sampling code");
  return static_cast<Sampling>(code);
}

// Address, dtype code, rows, address of the index or 0.
using ChoiceArguments = std::tuple<uintptr_t, int, int64_t, uintptr_t>;
bool run_bridge(int64_t rows, int64_t elements, const ChoiceArguments& x0,
                const ChoiceArguments& x1, uintptr_t coefficients, bool is_recipe, uintptr_t times,
                uintptr_t quantiles, int64_t cells, int sampling, const NoiseArguments& noise,
                uint32_t time_stream, uintptr_t draw, bool noisy, const Outputs& outputs,
                uintptr_t times_out, int times_type, int threads) {
  if (outputs.size() > MAX_TARGETS) throw std::invalid_argument("too many outputs");
  Bridge op{};
  op.rows = rows;
  op.elements = elements;
  const ChoiceArguments* choices[2] = {&x0, &x1};
  for (int k = 0; k < 2; ++k) {
    const auto& [address, code, count, index] = *choices[k];
    op.x[k] = {pointer<const void>(address), dtype_from(code), count,
               pointer<const int64_t>(index)};
    op.float64 |= address && dtype_from(code) == DType::float64;
  }
  (is_recipe ? op.recipe : op.table) = pointer<const double>(coefficients);
  op.times = pointer<const double>(times);
  op.quantiles = pointer<const double>(quantiles);
  op.cells = cells;
  op.sampling = sampling_from(sampling);
  op.noise = noise_from(noise);
  op.time_stream = time_stream;
  op.draw = static_cast<uint32_t>(*pointer<const int64_t>(draw));
  op.noisy = noisy;
  set_outputs(op, outputs);
  op.times_out = pointer<void>(times_out);
  op.times_type = dtype_from(times_type);
  const py::gil_scoped_release release;
  return bridge(op, threads);
}

// A described call with recipes and drawn times, on rows 0, 1, 2 ... of one seed. Each run brings
// the seed, the draw and the tensors.
struct Description {
  Bridge op{};
  bool parallel, pooled;
  py::object like, times_like;  // of the results, never written to
  py::object tensor, empty_like, num_threads;
  py::object dtype, index_dtype;
  py::tuple shape;
  std::vector<int64_t> ids;
};

// Whether something is a plain contiguous tensor on the CPU, without gradients, of this dtype and
// of rows of the shape that `shape` has from its second entry on; its length.
bool fits(const Description& description, PyObject* x, const py::object& dtype, Py_ssize_t dims,
          int64_t* count) {
  static PyObject* const DTYPE = PyUnicode_InternFromString("dtype");
  static PyObject* const SHAPE = PyUnicode_InternFromString("shape");
  static PyObject* const IS_CPU = PyUnicode_InternFromString("is_cpu");
  static PyObject* const REQUIRES_GRAD = PyUnicode_InternFromString("requires_grad");
  if (reinterpret_cast<PyObject*>(Py_TYPE(x)) != description.tensor.ptr()) return false;
  if (!attribute(x, DTYPE).is(dtype)) return false;
  const auto shape = attribute(x, SHAPE);
  if (PyTuple_GET_SIZE(shape.ptr()) != dims) return false;
  for (Py_ssize_t i = 1; i < dims; ++i)
    if (PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), i)) !=
        PyLong_AsLongLong(PyTuple_GET_ITEM(description.shape.ptr(), i)))
      return false;
  *count = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), 0));
  return attribute(x, IS_CPU).ptr() == Py_True && attribute(x, REQUIRES_GRAD).ptr() == Py_False &&
         has_address(x);
}

// Whether the environment leaves the choice to C++. It may change between two calls.
bool wanted() {
  const char* const backend = std::getenv("FASTGEN_BACKEND");
  return !backend || !std::strcmp(backend, "auto") || !std::strcmp(backend, "cpp");
}

// run(seed, draw, x0, x1, index0, index1) -> [t, outputs ...], or None if something does not fit.
PyObject* run_description(PyObject* self, PyObject* const* args, Py_ssize_t count) try {
  const auto& description = state_of<Description>(self);
  Bridge op = description.op;
  if (count != 6) {
    PyErr_SetString(PyExc_TypeError, "expected 6 arguments");
    return nullptr;
  }
  int overflow = 0;
  const int64_t seed = PyLong_AsLongLongAndOverflow(args[0], &overflow);
  const int64_t draw = overflow ? -1 : PyLong_AsLongLongAndOverflow(args[1], &overflow);
  if (PyErr_Occurred()) return nullptr;
  if (overflow || draw < 0 || draw >> 32 || !wanted()) Py_RETURN_NONE;
  op.noise.seeds = &seed;
  op.noise.sample_ids = description.ids.data();
  op.draw = static_cast<uint32_t>(draw);
  const Py_ssize_t dims = PyTuple_GET_SIZE(description.shape.ptr());
  for (int k = 0; k < 2; ++k) {
    PyObject *x = args[2 + k], *index = args[4 + k];
    if (x == Py_None) continue;
    if (!fits(description, x, description.dtype, dims, &op.x[k].count)) Py_RETURN_NONE;
    op.x[k].rows = data_pointer(x);
    if (op.x[k].count == 0) Py_RETURN_NONE;
    int64_t rows = op.x[k].count;
    if (index != Py_None) {
      if (!fits(description, index, description.index_dtype, 1, &rows)) Py_RETURN_NONE;
      op.x[k].index = static_cast<const int64_t*>(data_pointer(index));
    }
    if (rows != op.rows) Py_RETURN_NONE;
  }
  const auto results = owned(PyList_New(1 + op.outputs));
  for (int j = -1; j < op.outputs; ++j) {
    const auto& like = j < 0 ? description.times_like : description.like;
    PyObject* made = j >= 0 && description.pooled
                         ? pooled_tensor(description.shape, op.float64).release().ptr()
                         : PyObject_CallOneArg(description.empty_like.ptr(), like.ptr());
    if (!made) return nullptr;
    PyList_SET_ITEM(results.ptr(), j + 1, made);
    (j < 0 ? op.times_out : op.output[j]) = data_pointer(made);
  }
  int threads = 1;
  if (description.parallel) {
    const auto found = owned(PyObject_CallNoArgs(description.num_threads.ptr()));
    threads = static_cast<int>(PyLong_AsLong(found.ptr()));
    if (PyErr_Occurred()) return nullptr;
  }
  if (!without_gil(op.size(), [&] { return bridge(op, threads); })) {
    PyErr_SetString(PyExc_ValueError, "index: an entry is outside the rows of its tensor");
    return nullptr;
  }
  return py::object(results).release().ptr();
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
}

py::object describe_bridge(const py::object& like, const py::object& times_like, int64_t elements,
                           int code, int times_code, const py::object& index_dtype,
                           uintptr_t recipe, int targets, bool noisy, uintptr_t quantiles,
                           int64_t cells, int sampling, uint32_t stream, uint32_t time_stream,
                           bool parallel) {
  if (targets > MAX_TARGETS) throw std::invalid_argument("too many outputs");
  auto description = std::make_unique<Description>();
  const py::module_ torch = py::module_::import("torch");
  description->like = like;
  description->times_like = times_like;
  description->parallel = parallel;
  description->tensor = torch.attr("Tensor");
  description->empty_like = torch.attr("empty_like");
  description->num_threads = torch.attr("get_num_threads");
  description->dtype = like.attr("dtype");
  description->index_dtype = index_dtype;
  description->shape = like.attr("shape");
  Bridge& op = description->op;
  op.rows = py::cast<int64_t>(description->shape[0]);
  op.elements = elements;
  op.recipe = pointer<const double>(recipe);
  op.quantiles = pointer<const double>(quantiles);
  op.cells = cells;
  op.sampling = sampling_from(sampling);
  op.noise.stream = stream;
  op.in_order = op.rows < int64_t{1} << 32;
  op.time_stream = time_stream;
  op.noisy = noisy;
  op.float64 = dtype_from(code) == DType::float64;
  description->pooled = op.size() * (op.float64 ? 8 : 4) >= POOLED_FROM;
  op.outputs = targets;
  for (int k = 0; k < 2; ++k) op.x[k].type = dtype_from(code);
  for (int j = 0; j < targets; ++j) op.output_type[j] = dtype_from(code);
  op.times_type = dtype_from(times_code);
  for (int64_t i = 0; i < op.rows; ++i) description->ids.push_back(i);
  static PyMethodDef method =
      bare_method("run", run_description,
                  "run(seed, draw, x0, x1, index0, index1) -> [t, outputs ...] or None");
  return bare_function(method, std::move(description));
}

void draw_times(int64_t rows, uintptr_t quantiles, int64_t cells, int sampling,
                const NoiseArguments& noise, uintptr_t draw, uintptr_t output) {
  const Times op{rows,
                 pointer<const double>(quantiles),
                 cells,
                 sampling_from(sampling),
                 noise_from(noise),
                 static_cast<uint32_t>(*pointer<const int64_t>(draw)),
                 pointer<double>(output)};
  times(op);
}

}  // namespace

void bind_bridge(py::module_& m) {
  m.def("bridge", &run_bridge, "Whether all indices were in range.", py::arg("rows"),
        py::arg("elements"), py::arg("x0"), py::arg("x1"), py::arg("coefficients"),
        py::arg("is_recipe"), py::arg("times"), py::arg("quantiles"), py::arg("cells"),
        py::arg("sampling"), py::arg("noise"), py::arg("time_stream"), py::arg("draw"),
        py::arg("noisy"), py::arg("outputs"), py::arg("times_out"), py::arg("times_type"),
        py::arg("threads"));
  m.def("describe_bridge", &describe_bridge,
        "A function run(seed, draw, x0, x1, index0, index1) -> [t, outputs ...], or None where "
        "something does not fit.",
        py::arg("like"), py::arg("times_like"), py::arg("elements"), py::arg("code"),
        py::arg("times_code"), py::arg("index_dtype"), py::arg("recipe"), py::arg("targets"),
        py::arg("noisy"), py::arg("quantiles"), py::arg("cells"), py::arg("sampling"),
        py::arg("stream"), py::arg("time_stream"), py::arg("parallel"));
  m.def("times", &draw_times, py::arg("rows"), py::arg("quantiles"), py::arg("cells"),
        py::arg("sampling"), py::arg("noise"), py::arg("draw"), py::arg("output"));
}

}  // namespace fastgen
