"""Faults that are planted in the project's launches are seen by the emulator, or by its results."""

from contextlib import nullcontext

import pytest
import torch

from tests.support.triton_device import EMULATED

if not EMULATED:
    pytest.skip("run by test_ptx_project.py, in a process of its own", allow_module_level=True)

from fastgen.kernels.combine import reference
from fastgen.kernels.combine import triton as kernels
from fastgen.kernels.normals.triton_kernels import normals_kernel
from fastgen.kernels.triton_support import launch
from fastgen.kernels.triton_support.launch import OPTIONS, Launch
from tests.kernels import test_combine_triton
from tests.ptx import driver
from tests.ptx.memory import AccessError
from tests.ptx.program import PtxError

KEY = torch.tensor([1])
CONSTANTS = 0, False, 4, 128, True, False, True  # of normals_kernel


@pytest.fixture
def stage():
    """x, y, out, table and what a stage on them gives."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 640, generator=generator) for _ in range(2))
    table = torch.randn(2, 1, 2, generator=generator, dtype=torch.float64)
    return x, y, torch.zeros(2, 640), table, reference.combine([x, y], table, [x.dtype])[0]


def test_nothing_planted(stage):
    """The second launch is the short one, which gives addresses only."""
    x, y, out, table, wanted = stage
    driver.launched.clear()
    bound = kernels.bind([x, None], [out], table)
    for _ in range(2):
        out.fill_(float("nan"))
        bound([y])
        assert torch.equal(out, wanted)
    assert bound._launch.ready()
    assert driver.launched == ["combine_kernel"] * 2


def test_misaligned_access(stage):
    x, y, out, table, _ = stage
    bound = kernels.bind([x, None], [out], table)
    bound([y])
    odd = torch.randn(2 * 640 + 4)[1:]
    with pytest.raises(AccessError, match="misaligned access of 16 bytes"):
        bound._launch.lean((x.data_ptr(), odd.data_ptr()))


def test_access_out_of_bounds():
    with pytest.raises(AccessError, match="outside of all tensors"):
        normals_kernel[(1,)](torch.empty(1, 64), KEY, KEY, KEY, 1, 68, *CONSTANTS, **OPTIONS)


def test_access_beyond_a_view():
    """Memory of the same storage that the launch was not given."""
    memory = torch.zeros(8, 64)
    with pytest.raises(AccessError, match="outside of all tensors"):
        normals_kernel[(1,)](memory[:1], KEY, KEY, KEY, 1, 68, *CONSTANTS, **OPTIONS)


def test_address_of_a_freed_tensor(stage):
    x, y, out, table, _ = stage
    bound = kernels.bind([x, None], [out], table)
    bound([y])
    other = torch.randn(2, 640)
    address = other.data_ptr()
    del other
    with pytest.raises(AccessError, match="address of no tensor"):
        bound._launch.lean((x.data_ptr(), address))


def test_fused_multiply_add(stage, monkeypatch):
    x, y, _, table, _ = stage
    monkeypatch.setitem(OPTIONS, "enable_fp_fusion", True)
    with pytest.raises(PtxError, match="combine_kernel"):
        kernels.combine([x.half(), y.half()], table, [torch.float16])


class Swapped(Launch):
    """Rows and elements in each other's places."""

    __slots__ = ()

    def __init__(self, kernel, programs, kinds, tensors, scalars, constants):
        scalars = scalars[1], scalars[0], *scalars[2:]
        super().__init__(kernel, programs, kinds, tensors, scalars, constants)


def test_wrong_order_of_parameters(stage, monkeypatch):
    x, y, _, table, wanted = stage
    monkeypatch.setattr(kernels, "Launch", Swapped)
    try:
        found = kernels.combine([x, y], table, [torch.float32])[0]
    except AccessError:
        return
    assert not torch.equal(found, wanted)


class TooMany(Launch):
    """A row more than there is."""

    __slots__ = ()

    def __init__(self, kernel, programs, kinds, tensors, scalars, constants):
        scalars = scalars[0] + 1, *scalars[1:]
        super().__init__(kernel, programs + 1, kinds, tensors, scalars, constants)


class Careless(Launch):
    """Takes every address for one of 16 bytes."""

    __slots__ = ()

    def __init__(self, kernel, programs, kinds, tensors, scalars, constants):
        super().__init__(kernel, programs, kinds, tensors, scalars, constants)
        self._misaligned, self._aligned = 0, True


class Stale(Launch):
    """Holds a copy of the table, as it was when the launch was described."""

    __slots__ = ()

    def __init__(self, kernel, programs, kinds, tensors, scalars, constants):
        tensors = tensors[0], tensors[1].clone(), *tensors[2:]
        super().__init__(kernel, programs, kinds, tensors, scalars, constants)


@pytest.mark.parametrize("kind", [Launch, Stale])
def test_stale_coefficient(stage, kind, monkeypatch):
    x, y, out, table, wanted = stage
    monkeypatch.setattr(kernels, "Launch", kind)
    bound = kernels.bind([x, None], [out], table)
    bound([y])
    assert torch.equal(out, wanted)
    table.mul_(2)
    bound([y])
    now = reference.combine([x, y], table, [torch.float32])[0]
    assert torch.equal(out, now) == (kind is Launch)


PLANTS = {
    "nothing": (Launch, None),
    "a misaligned access": (Careless, AccessError),
    "an access out of bounds": (TooMany, AccessError),
    "parameters in a wrong order": (Swapped, (AccessError, AssertionError)),
    "a stale coefficient": (Stale, AssertionError),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_the_own_tests_of_a_kernel_catch(plant, monkeypatch):
    """Not only the tests here, which look for a fault that they know."""
    kind, error = PLANTS[plant]
    test_combine_triton.test_misaligned_tensors()  # leaves a kernel for aligned tensors
    monkeypatch.setattr(kernels, "Launch", kind)
    if kind is Careless:  # calls on given tensors look at addresses themselves
        monkeypatch.setattr(kernels, "ALIGNMENT", 1)
    caught = pytest.raises(error) if error else nullcontext()
    with caught:
        test_combine_triton.test_bound_reads_buffers_when_called()
        test_combine_triton.test_misaligned_tensors()


def test_the_own_tests_of_a_kernel_catch_fused_steps(monkeypatch):
    monkeypatch.setitem(OPTIONS, "enable_fp_fusion", True)
    monkeypatch.setattr(launch, "_compiled", {})
    with pytest.raises(PtxError, match="combine_kernel"):
        test_combine_triton.test_bound_reads_buffers_when_called()
