// The extension module fastgen._C.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/bindings.h"
#include "common/isa.h"
#include "common/pool.h"

namespace py = pybind11;

namespace fastgen {
// Each in the bindings.cpp of its folder.
void bind_assignment(py::module_& m);
void bind_bridge(py::module_& m);
void bind_brownian(py::module_& m);
void bind_cascade(py::module_& m);
void bind_combine(py::module_& m);
void bind_gram(py::module_& m);
void bind_normals(py::module_& m);
void bind_pairwise(py::module_& m);
void bind_stochastic_combine(py::module_& m);
void bind_runge_kutta(py::module_& m);

void bind_tensors(py::module_& m) {
  static PyMethodDef address{"address", python_address, METH_O, "address(tensor) -> int"};
  static PyMethodDef readable = bare_method("readable", python_readable, "readable(tensor, name)");
  m.attr("address") = owned(PyCFunction_New(&address, nullptr));
  m.attr("readable") = owned(PyCFunction_New(&readable, nullptr));
}
}  // namespace fastgen

PYBIND11_MODULE(_C, m) {
  m.doc() = "CPU kernels on raw addresses; nothing is checked here. Use fastgen.kernels.";
  fastgen::isa();  // an unusable FASTGEN_ISA is reported on import
  m.def("isa", &fastgen::isa_name, "The instruction set in use.");
  m.def("set_isa", &fastgen::set_isa, "Use another instruction set, for tests and benchmarks.");
  m.def("supported_isas", &fastgen::supported_isas, "Instruction sets this CPU can run.");
  m.def(
      "use_tensor_type", &fastgen::use_tensor_type,
      "torch.Tensor, what it has as __dlpack_c_exchange_api__ or None, and Python's functions for "
      "tensors that C++ cannot read; see fastgen.kernels.cpp_support.",
      py::arg("type"), py::arg("exchange"), py::arg("address"), py::arg("readable"));
  fastgen::bind_tensors(m);
  fastgen::bind_pool(m);
  fastgen::bind_combine(m);
  fastgen::bind_gram(m);
  fastgen::bind_normals(m);
  fastgen::bind_brownian(m);
  fastgen::bind_cascade(m);
  fastgen::bind_bridge(m);
  fastgen::bind_stochastic_combine(m);
  fastgen::bind_runge_kutta(m);
  fastgen::bind_pairwise(m);
  fastgen::bind_assignment(m);
}
