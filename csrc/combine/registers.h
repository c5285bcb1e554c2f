#pragma once
#include <pybind11/pybind11.h>

namespace fastgen {
void bind_registers(pybind11::module_& m);
}
