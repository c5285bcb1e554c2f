import pytest
import torch

try:
    from hypothesis import settings
except ImportError:  # on machines with a GPU and little else, the other tests still run
    from tests.support import without_hypothesis

    without_hypothesis.install()
else:
    settings.register_profile("fastgen", deadline=None, max_examples=50, derandomize=True)
    settings.load_profile("fastgen")


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Every freshly allocated tensor is NaN until it is written."""
    # Under deterministic algorithms cuBLAS runs with this only.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    assert torch.isnan(torch.empty(3)).all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def uncompiled(monkeypatch):
    """No compiler is called. The list of graphs that are made from now on."""
    from tests.support.compiling import without_compiler

    return without_compiler(monkeypatch)


@pytest.fixture(params=["reference", "cpp"])
def backend(request):
    return request.param
