"""From tensors to launches: arguments packed once, compiled kernels called directly.

`kernel[grid](...)` inspects every argument on every call. What it returns, the compiled kernel, can
be launched again with plain addresses as long as dtypes and alignment stay what they were. Its
`run` has had the same arguments in Triton 3.5 to 3.7 (compiled against 3.7.1, read in 3.5.1 and
3.6.0); where it is not to be had, as in the interpreter, the ordinary launch does the work.
"""

from __future__ import annotations

import struct
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from triton import knobs
from triton.runtime import driver

from fastgen.kernels.combine.triton_kernels import combine_kernel, normals_kernel
from fastgen.kernels.contract import compute_dtype
from fastgen.kernels.triton_support.geometry import THREADS, Geometry, geometry

# Vector accesses need addresses that are multiples of this many bytes.
ALIGNMENT = 16
# No fused multiply-add: the contract rounds products and sums once each. AMD's waves are 64 wide.
OPTIONS: dict[str, Any] = {
    "num_warps": THREADS // 64 if torch.version.hip else THREADS // 32,
    "enable_fp_fusion": False,
}


class Stage(NamedTuple):
    """What a compiled `combine_kernel` depends on, beside dtypes and alignment."""

    geometry: Geometry
    noises: int
    clip: bool
    table_per_row: bool
    seed_per_row: bool
    draws_per_row: bool
    wide: bool

    def constants(self) -> tuple[Any, ...]:
        """The kernel's constexpr arguments, in order."""
        real = tl.float64 if self.wide else tl.float32
        flags = int(self.clip), self.table_per_row, self.seed_per_row, self.draws_per_row
        return (self.noises, *flags, real, *self.geometry[2:])


def describe(
    rows: int,
    elements: int,
    inputs: list[torch.dtype],
    outputs: list[torch.dtype],
    table_rows: int,
    clip: bool,
    noises: int,
    seeds: int,
    draws_per_row: bool = False,
) -> Stage:
    """The stage for a call with these sizes and dtypes."""
    kinds = inputs + outputs
    by_row = table_rows > 1
    g = geometry(rows, elements, kinds, len(inputs) + clip + noises, noises, by_row)
    wide = compute_dtype(kinds) == torch.float64
    return Stage(g, noises, clip, by_row, bool(noises) and seeds > 1, draws_per_row, wide)


def bits(x: float) -> int:
    """The bits of a float64 as a signed integer."""
    (result,) = struct.unpack("<q", struct.pack("<d", x))
    return int(result)


# Compiled kernels for aligned tensors, by what they depend on: the device, the dtypes of inputs
# and outputs, and the constants.
_compiled: dict[tuple[Any, ...], Any] = {}


class Launch:
    """One stage on given outputs, table and keys; only the addresses of inputs are left open.

    Args:
        stage: what `describe` says of the call.
        kinds: dtypes of the inputs.
        tensors: the outputs, the table, then seeds, sample ids and draws or three times None;
            their lifetime is the caller's affair.
        clip: bounds of the clipped value, or None.
        stream: family of draws.
    """

    __slots__ = ("_after", "_aligned", "_device", "_kernel", "_key", "_programs", "_tensors")

    def __init__(
        self,
        stage: Stage,
        kinds: tuple[torch.dtype, ...],
        tensors: tuple[Any, ...],
        clip: tuple[float, float] | None,
        stream: int,
    ):
        g, (outputs, *others) = stage.geometry, tensors
        low, high = (0, 0) if clip is None else (bits(clip[0]), bits(clip[1]))
        constants = stage.constants()
        addresses = tuple([y.data_ptr() for y in outputs])
        rest = [None if x is None else x.data_ptr() for x in others]
        self._after = (addresses, *rest, g.rows, g.elements, low, high, stream, *constants)
        self._aligned = not any(address % ALIGNMENT for address in addresses)
        self._device = outputs[0].device.index or 0
        self._kernel: Any = None
        self._key = (self._device, kinds, tuple([y.dtype for y in outputs]), constants)
        self._programs = g.programs
        self._tensors = tensors

    def __call__(self, inputs: tuple[Tensor, ...]) -> None:
        """Launch by the shortest way that there is."""
        addresses = tuple([x.data_ptr() for x in inputs])
        if any(address % ALIGNMENT for address in addresses) or not self.lean(addresses):
            self.ordinary(inputs)

    def ordinary(self, inputs: tuple[Tensor, ...]) -> None:
        """Launch on tensors, compiling at need."""
        scalars = self._after[len(self._tensors) :]
        with on_device(inputs[0]):
            kernel = combine_kernel[(self._programs,)](inputs, *self._tensors, *scalars, **OPTIONS)
        # The interpreter returns no kernel.
        aligned = self._aligned and not any(x.data_ptr() % ALIGNMENT for x in inputs)
        if aligned and kernel is not None:
            _compiled[self._key] = self._kernel = kernel

    def ready(self) -> bool:
        """Whether `lean` can launch: the kernel is loaded and no profiler hooks launches."""
        if self._kernel is None:
            self._kernel = _compiled.get(self._key) if self._aligned else None
        if self._kernel is None or driver.active.get_current_device() != self._device:
            return False
        hook = knobs.runtime.launch_enter_hook
        return hook is None or not getattr(hook, "calls", True)

    def lean(self, addresses: tuple[int, ...]) -> bool:
        """Launch on the addresses of all inputs, multiples of `ALIGNMENT`, or return False."""
        if not self.ready():
            return False
        kernel = self._kernel
        kernel.run(
            self._programs,
            1,
            1,
            driver.active.get_current_stream(self._device),
            kernel.function,
            kernel.packed_metadata,
            None,
            None,
            None,
            addresses,
            *self._after,
        )
        return True


def launch_normals(
    output: Tensor, seeds: Tensor, sample_ids: Tensor, draw: Tensor, stream: int
) -> None:
    """Fill output [rows, elements], which is not empty."""
    rows, elements = output.shape
    g = geometry(rows, elements, [output.dtype], 1, 1, False)
    arguments = (output, seeds, sample_ids, draw, rows, elements, int(stream))
    constants = (seeds.shape[0] > 1, *g[2:])
    with on_device(output):
        normals_kernel[(g.programs,)](*arguments, *constants, **OPTIONS)


def on_device(x: Tensor) -> Any:
    """Make x's device the current one. On CPU tensors the interpreter runs."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
