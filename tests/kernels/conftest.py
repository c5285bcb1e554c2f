import pytest
from torch import Tensor


@pytest.fixture(params=["interface", "attributes"])
def each_look(request):
    """How C++ looks at tensors: by torch's C interface, where it has one, and by attributes."""
    cpp = pytest.importorskip("fastgen.kernels.cpp_support", reason="the C++ kernels are not built")
    interface = cpp.EXCHANGE if request.param == "interface" else None
    if request.param == "interface" and interface is None:
        pytest.skip("this torch has no such interface")
    cpp._C.use_tensor_type(Tensor, interface)
    yield
    cpp._C.use_tensor_type(Tensor, cpp.EXCHANGE)
