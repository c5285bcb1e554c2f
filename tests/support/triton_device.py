"""Where the tests of Triton kernels run: on a GPU, or on the CPU.

On the CPU it is Triton's interpreter, or, with FASTGEN_TEST_PTX=1, the compiled kernels' PTX in the
emulator of `tests/ptx`. The CPU it is where there is no GPU, or TRITON_INTERPRET is set; on a GPU
the same tests carry the mark `gpu`.
"""

import os
from contextlib import contextmanager

import pytest
import torch

from fastgen.kernels import Clock, Noise

EMULATED = os.environ.get("FASTGEN_TEST_PTX") == "1"
ON_CPU = (
    EMULATED or os.environ.get("TRITON_INTERPRET") == "1" or not torch.cuda.is_available()
)  # small sizes
INTERPRETED = ON_CPU and not EMULATED
DEVICE = "cpu" if ON_CPU else "cuda"
MARKS = [] if ON_CPU else [pytest.mark.gpu]

if EMULATED:
    from tests.ptx import driver

    driver.install()


@contextmanager
def defining_kernels():
    """Import kernels inside: Triton looks at the environment when they are defined."""
    with pytest.MonkeyPatch.context() as patch:
        if INTERPRETED:
            patch.setenv("TRITON_INTERPRET", "1")
        yield


@contextmanager
def running_on_triton():
    """Let `backend="triton"` take CPU tensors inside."""
    with pytest.MonkeyPatch.context() as patch:
        if ON_CPU:
            patch.setenv("TRITON_INTERPRET", "1")
        yield


@pytest.fixture(autouse=True, scope="module")
def interpreter_that_rounds():
    """Triton 3.7's interpreter cuts float32 down to bfloat16; devices round to nearest even."""
    if not INTERPRETED:
        yield
        return
    from triton.language import bfloat16, float32
    from triton.runtime import interpreter

    before = interpreter._convert_float

    def convert(array, source, target, rounding_mode):
        if (source, target) == (float32, bfloat16):
            rounded = torch.from_numpy(array.copy()).bfloat16().view(torch.int16)
            return rounded.numpy().view("uint16")
        if (source, target) == (bfloat16, float32):
            return (array.astype("uint32") << 16).reshape(array.shape)
        return before(array, source, target, rounding_mode)

    interpreter._convert_float = convert
    yield
    interpreter._convert_float = before


def to_device(x):
    """A tensor, or what holds some, on the device."""
    if isinstance(x, Noise):
        return Noise(*(y.to(DEVICE) for y in x[:3]), x.stream)
    if isinstance(x, Clock):
        return Clock(x.quantiles.to(DEVICE), x.sampling)
    return x.to(DEVICE) if isinstance(x, torch.Tensor) else x


def same(a, b):
    """Whether all bits are equal; any NaN is as good as another."""
    a = a.cpu()
    equal = (a == b) | (a.isnan() & b.isnan())
    return a.dtype == b.dtype and a.shape == b.shape and bool(equal.all())
