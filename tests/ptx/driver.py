"""A Triton driver whose device is the emulator: launches on CPU tensors run the kernels' PTX.

`install()` makes it Triton's active driver for the rest of the process. The PTX itself takes the
place of machine code, so compiled kernels are cached apart from real ones.
"""

import gc
import os
import weakref
from pathlib import Path

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime import driver

from tests.ptx.machine import execute
from tests.ptx.memory import AccessError, GlobalMemory
from tests.ptx.program import Program, PtxError

# Kernels with exp, log or tensor cores in them. All others may hold only what rounds once.
MAY_BE_INEXACT = {"pairs_kernel", "control_kernel", "error_kernel", "step_kernel"}
MAY_BE_INEXACT |= {"brownian_area_kernel"}
CACHE = Path(os.environ.get("FASTGEN_PTX_CACHE", Path.home() / ".cache/fastgen/ptx"))

programs = []
launched = []  # names of kernels, in order
_owners = {}  # address: a weak reference to a tensor that begins there


def load_binary(name, kernel, shared, device):
    """What Triton keeps of a loaded kernel: module, function, registers, spills, most threads."""
    program = Program(kernel.decode())
    if program.inexact and program.name not in MAY_BE_INEXACT:
        raise PtxError(f"{program.name} is exact and holds {', '.join(program.inexact)}")
    programs.append(program)
    return len(programs), len(programs) - 1, 32, 0, 1024


def extent(x):
    """Addresses that a tensor may be read and written at: [first, last)."""
    if x.numel() == 0:
        return 0, 0
    last = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def remember(data_ptr):
    """Tensor.data_ptr that notes whose address it gave: short launches pass nothing else."""

    def noted(x):
        address = data_ptr(x)
        _owners[address] = weakref.ref(x)
        return address

    return noted


def owner(address):
    """The extent of the tensor that a plain address was asked of."""
    known = _owners.get(address)
    x = known() if known else None
    if x is None:  # a view that is gone; what it was a view of is there
        found = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
        found = [t for t in found if _begins(t, address)]
        if not found:
            raise AccessError(f"{address:#x} is the address of no tensor")
        x = max(found, key=lambda t: extent(t)[1])
        _owners[address] = weakref.ref(x)
    return extent(x)


def _begins(x, address):
    try:
        return x.data_ptr() == address
    except RuntimeError:  # of tensors without memory
        return False


def flat(values, kinds):
    """Pairs (value, kind) of the arguments that a kernel is handed, tuples unpacked."""
    for value, kind in zip(values, kinds, strict=True):
        if isinstance(kind, tuple):
            yield from flat(value, kind)
        elif kind != "constexpr":
            yield value, kind


def launcher(source, metadata):
    """Stands for Triton's C launcher of one compiled kernel."""
    kinds = list(source.signature.values())

    def launch(gx, gy, gz, stream, function, packed, launch_metadata, enter, leave, *arguments):
        numbers, ranges = [], []
        for value, kind in flat(arguments, kinds):
            if isinstance(value, torch.Tensor):
                ranges.append(extent(value))
                value = value.data_ptr()
            elif kind[0] == "*" and value:
                ranges.append(owner(value))
            numbers.append(0 if value is None else int(value))
        program = programs[function]
        launched.append(program.name)
        scratch = [0] * (len(program.parameters) - len(numbers))
        execute(program, (gx, gy, gz), numbers + scratch, metadata.shared, GlobalMemory(ranges))

    return launch


class Utils:
    """What Triton asks of a driver's helpers."""

    get_device_properties = staticmethod(
        lambda device: {"max_shared_mem": 232448, "multiprocessor_count": 132}
    )
    load_binary = staticmethod(load_binary)


class Emulator:
    """The driver: an H100's instructions on the CPU's tensors."""

    utils = Utils()
    launcher_cls = staticmethod(launcher)
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)
    get_active_torch_device = staticmethod(lambda: torch.device("cpu"))


def install():
    """Make the emulator the device of every later launch of this process."""
    os.environ["TRITON_CACHE_DIR"] = str(CACHE)
    CUDABackend.make_cubin = lambda self, ptx, metadata, options, capability: ptx.encode()
    torch.Tensor.data_ptr = remember(torch.Tensor.data_ptr)
    driver.set_active(Emulator())
