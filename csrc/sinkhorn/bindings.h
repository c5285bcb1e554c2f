#pragma once
#include <pybind11/pybind11.h>

namespace fastgen {
void bind_sinkhorn(pybind11::module_& m);
}
