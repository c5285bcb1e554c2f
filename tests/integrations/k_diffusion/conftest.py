import pytest

from tests.integrations.k_diffusion.denoising import DTYPE, levels, start
from tests.support.peers import k_diffusion


@pytest.fixture(scope="module")
def peer():
    integrate = pytest.importorskip("scipy.integrate")
    prefixes = ("sample_", "to_d", "get_", "default_noise", "append", "linear", "DPMS", "PID")
    return k_diffusion(*prefixes, integrate=integrate)


@pytest.fixture
def problem():
    return start(DTYPE), levels(DTYPE)
