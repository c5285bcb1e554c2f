import pytest


@pytest.fixture(params=["interface", "attributes"])
def each_look(request):
    """How C++ looks at tensors: by torch's C interface, where it has one, and by attributes."""
    cpp = pytest.importorskip("fastgen.kernels.cpp_support", reason="the C++ kernels are not built")
    interface = cpp.EXCHANGE if request.param == "interface" else None
    if request.param == "interface" and interface is None:
        pytest.skip("this torch has no such interface")
    cpp.look_by(interface)
    yield
    cpp.look_by(cpp.EXCHANGE)
