"""From tensors to launches: arguments packed once, compiled kernels called directly.

`kernel[grid](...)` inspects every argument on every call. What it returns, the compiled kernel, can
be launched again with plain addresses as long as dtypes and alignment stay what they were. Its
`run` has had the same arguments in Triton 3.5 to 3.7 (compiled against 3.7.1, read in 3.5.1 and
3.6.0); where it is not to be had, as in the interpreter, the ordinary launch does the work.
"""

from __future__ import annotations

import struct
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from triton import knobs
from triton.runtime import driver

from fastgen.common.memory import address
from fastgen.kernels.contract import HoldsAddresses
from fastgen.kernels.triton_support.geometry import THREADS

# Vector accesses need addresses that are multiples of this many bytes.
ALIGNMENT = 16
# No fused multiply-add: the contract rounds products and sums once each. AMD's waves are 64 wide.
OPTIONS: dict[str, Any] = {
    "num_warps": THREADS // 64 if torch.version.hip else THREADS // 32,
    "enable_fp_fusion": False,
}


def bits(x: float) -> int:
    """The bits of a float64 as a signed integer."""
    (result,) = struct.unpack("<q", struct.pack("<d", x))
    return int(result)


def on_device(x: Tensor) -> Any:
    """Make x's device the current one. On CPU tensors the interpreter runs."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


# Compiled kernels for aligned tensors, by what they depend on: the kernel, the device, the dtypes
# of tensors, and the constants.
_compiled: dict[tuple[Any, ...], Any] = {}


def _runnable(compiled: Any, device: int) -> bool:
    """Whether a kernel is there, loaded on the current device, and no profiler hooks launches."""
    if compiled is None or driver.active.get_current_device() != device:
        return False
    hook = knobs.runtime.launch_enter_hook
    return hook is None or not getattr(hook, "calls", True)


def _run(compiled: Any, device: int, grid: tuple[int, int], arguments: tuple[Any, ...]) -> None:
    compiled.run(
        *grid,
        1,
        driver.active.get_current_stream(device),
        compiled.function,
        compiled.packed_metadata,
        None,
        None,
        None,
        *arguments,
    )


@lru_cache(maxsize=64)
def _aligned_arguments(kernel: Any, count: int) -> tuple[bool, ...]:
    """Of a kernel's first arguments: which ones have code of their own for aligned addresses."""
    parameters = getattr(kernel, "params", None)
    if parameters is None:  # interpreted
        return (True,) * count
    return tuple([not p.do_not_specialize_on_alignment for p in parameters[:count]])


class FixedLaunch(HoldsAddresses):
    """A kernel on tensors that stay, described once.

    Args:
        kernel: a function of Triton's, whose arguments are tensors, numbers and constants, in this
            order.
        grid: size of the launch grid.
        tensors: tensors, tuples of them, or None; at least one tensor. Their lifetime is the
            caller's affair.
        scalars: numbers that the kernel is not specialised on.
        constants: the constexpr arguments.
        options: for the compiler, always the same for a kernel.
    """

    __slots__ = ("_arguments", "_compiled", "_device", "_given", "_key", "_misaligned")

    def __init__(
        self,
        kernel: Any,
        grid: tuple[int, int],
        tensors: tuple[Tensor | tuple[Tensor, ...] | None, ...],
        scalars: tuple[int, ...],
        constants: tuple[Any, ...],
        options: dict[str, Any] = OPTIONS,
    ):
        kinds: list[Any] = []
        places: list[Any] = []
        misaligned = 0
        first: Tensor | None = None
        for x, counts in zip(tensors, _aligned_arguments(kernel, len(tensors)), strict=True):
            if x is None:
                kinds.append(None)
                places.append(None)
                continue
            group = x if isinstance(x, tuple) else (x,)
            own = tuple([address(y) for y in group])
            if counts:
                for at in own:
                    misaligned |= at % ALIGNMENT
            first = group[0] if first is None and group else first
            kinds.append(tuple([y.dtype for y in group]))
            places.append(own if group is x else own[0])
        assert first is not None
        self._device = first.device.index or 0
        self._arguments = (*places, *scalars, *constants)
        self._misaligned = bool(misaligned)
        self._key = kernel, self._device, tuple(kinds), constants
        self._given = kernel, grid, first, (*tensors, *scalars, *constants), options
        self._compiled: Any = None

    def __call__(self) -> None:
        """Launch by the shortest way that there is."""
        kernel, grid, first, arguments, options = self._given
        if self._compiled is None and not self._misaligned:
            self._compiled = _compiled.get(self._key)
        if _runnable(self._compiled, self._device):
            _run(self._compiled, self._device, grid, self._arguments)
            return
        with on_device(first):
            compiled = kernel[grid](*arguments, **options)
        if not self._misaligned and compiled is not None:  # the interpreter returns none
            _compiled[self._key] = compiled


def launch(*arguments: Any) -> None:
    """Launch a kernel once; the arguments are those of `FixedLaunch`."""
    FixedLaunch(*arguments)()


class Launch(HoldsAddresses):
    """A kernel on given outputs and tables; only the addresses of its inputs are left open.

    The kernel's arguments are a tuple of inputs, a tuple of outputs, further tensors, numbers and
    constants, in this order; where it has steps, the number of one comes before the numbers.

    Args:
        kernel: a function of Triton's.
        programs: size of the launch grid.
        kinds: dtypes of the inputs.
        tensors: the tuple of outputs, then further tensors or None; their lifetime is the caller's
            affair.
        scalars: numbers that the kernel is not specialised on.
        constants: the constexpr arguments.
        steps: whether a call is for one step of several.
    """

    __slots__ = (
        "_after",
        "_aligned",
        "_compiled_kernel",
        "_device",
        "_kernel",
        "_key",
        "_misaligned",
        "_programs",
        "_steps",
        "_tensors",
    )

    def __init__(
        self,
        kernel: Any,
        programs: int,
        kinds: tuple[torch.dtype, ...],
        tensors: tuple[Any, ...],
        scalars: tuple[int, ...],
        constants: tuple[Any, ...],
        steps: bool = False,
    ):
        outputs, *others = tensors
        addresses = tuple([address(y) for y in outputs])
        rest = [None if x is None else address(x) for x in others]
        self._steps = (0,) if steps else ()
        self._after = (addresses, *rest, *self._steps, *scalars, *constants)
        # Bits that no address of an input may have for the code that `lean` launches.
        inputs_count, outputs_count, *counts = _aligned_arguments(kernel, 2 + len(rest))
        self._misaligned = ALIGNMENT - 1 if inputs_count else 0
        wide = [at for at, own in zip(rest, counts, strict=True) if own and at is not None]
        wide += addresses if outputs_count else ()
        self._aligned = not any(at % ALIGNMENT for at in wide)
        self._device = outputs[0].device.index or 0
        self._kernel = kernel
        self._compiled_kernel: Any = None
        written = tuple([y.dtype for y in outputs])
        read = tuple([None if x is None else x.dtype for x in others])
        self._key = (kernel, self._device, kinds, written, read, constants)
        self._programs = programs
        self._tensors = tensors

    def __call__(self, inputs: tuple[Tensor, ...], step: int = 0) -> None:
        """Launch by the shortest way that there is."""
        if self._steps and step != self._after[len(self._tensors)]:
            count = len(self._tensors)
            self._after = (*self._after[:count], step, *self._after[count + 1 :])
        addresses = tuple([address(x) for x in inputs])
        if any(at & self._misaligned for at in addresses) or not self.lean(addresses):
            self.ordinary(inputs)

    def ordinary(self, inputs: tuple[Tensor, ...]) -> None:
        """Launch on tensors, compiling at need."""
        numbers = self._after[len(self._tensors) :]
        with on_device(self._tensors[0][0]):
            kernel = self._kernel[(self._programs,)](inputs, *self._tensors, *numbers, **OPTIONS)
        # The interpreter returns no kernel.
        aligned = self._aligned and not any(address(x) & self._misaligned for x in inputs)
        if aligned and kernel is not None:
            _compiled[self._key] = self._compiled_kernel = kernel

    def ready(self) -> bool:
        """Whether `lean` can launch: the kernel is loaded and no profiler hooks launches."""
        if self._compiled_kernel is None:
            self._compiled_kernel = _compiled.get(self._key) if self._aligned else None
        return _runnable(self._compiled_kernel, self._device)

    def lean(self, addresses: tuple[int, ...]) -> bool:
        """Launch on the inputs' addresses, aligned as the kernel wants it, or return False."""
        if not self.ready():
            return False
        arguments = addresses, *self._after
        _run(self._compiled_kernel, self._device, (self._programs, 1), arguments)
        return True
