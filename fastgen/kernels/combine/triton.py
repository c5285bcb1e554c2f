"""`combine` in Triton on CUDA and ROCm tensors.

With ``TRITON_INTERPRET=1`` set before this is imported it runs on CPU tensors, slowly, for tests.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from fastgen.common.memory import address, readable
from fastgen.kernels.combine.contract import Known, check_bound, check_combine, check_outputs
from fastgen.kernels.combine.triton_kernels import combine_kernel
from fastgen.kernels.contract import HoldsAddresses, Noise, compute_dtype
from fastgen.kernels.triton_support.geometry import Geometry, geometry
from fastgen.kernels.triton_support.launch import ALIGNMENT, Launch, bits


class CombineCase(NamedTuple):
    """What a compiled `combine_kernel` depends on, beside dtypes and alignment."""

    geometry: Geometry
    noises: int
    clip: bool
    table_per_row: bool
    seed_per_row: bool
    draws_per_row: bool
    wide: bool
    known: int = 0

    def constants(self) -> tuple[Any, ...]:
        """The kernel's constexpr arguments, in order."""
        real = tl.float64 if self.wide else tl.float32
        flags = int(self.clip), self.table_per_row, self.seed_per_row, self.draws_per_row
        return (self.noises, *flags, self.known, real, *self.geometry[2:])


def specialise(
    rows: int,
    elements: int,
    inputs: list[torch.dtype],
    outputs: list[torch.dtype],
    table_rows: int,
    clip: bool,
    noises: int,
    seeds: int,
    draws_per_row: bool = False,
    known: tuple[torch.dtype, int, int] | None = None,
) -> CombineCase:
    """What a call with these sizes and dtypes needs.

    known: dtype of the values, and rows of them and of the mask.
    """
    kinds = inputs + outputs
    by_row = table_rows > 1
    read = kinds if known is None else [*kinds, known[0]]
    terms = len(inputs) + clip + noises + (known is not None)
    # What all rows share is found by the place in a row.
    apart = by_row or (known is not None and min(known[1:]) < rows)
    g = geometry(rows, elements, read, terms, noises, apart)
    wide = compute_dtype(kinds) == torch.float64
    keyed = bool(noises) and seeds > 1
    code = 0 if known is None else 1 + (known[1] > 1) + 2 * (known[2] > 1)
    return CombineCase(g, noises, clip, by_row, keyed, draws_per_row, wide, code)


class BoundLaunch(HoldsAddresses):
    """A `combine_into` on fixed buffers whose arguments are packed once; see `bind`."""

    __slots__ = (
        "_addresses",
        "_arguments",
        "_device",
        "_dtypes",
        "_empty",
        "_launch",
        "_misaligned",
        "_places",
        "_shape",
    )

    def __init__(
        self,
        inputs: list[Tensor | None],
        outputs: list[Tensor],
        table: Tensor,
        clip: tuple[float, float] | None,
        noise: Noise | None,
        known: Known | None = None,
    ):
        self._arguments = (list(inputs), list(outputs), table, clip, noise, known)
        self._shape, self._device = outputs[0].shape, outputs[0].device
        self._empty = outputs[0].numel() == 0
        self._places = [i for i, x in enumerate(inputs) if x is None]
        self._addresses = [0 if x is None else address(x) for x in inputs]
        self._misaligned = int(any(at % ALIGNMENT for at in self._addresses))
        self._describe([outputs[0].dtype for _ in self._places])

    def __call__(self, missing: list[Tensor]) -> None:
        """Compute with `missing` in the places of the inputs that are None, in order."""
        places, shape, device = self._places, self._shape, self._device
        if len(missing) != len(places):
            raise ValueError(f"expected {len(places)} tensors, got {len(missing)}")
        misaligned, addresses = self._misaligned, self._addresses
        if places:
            addresses = addresses.copy()
            for place, dtype, x in zip(places, self._dtypes, missing):  # noqa: B905 (of one length)
                if x.dtype is not dtype or not x.is_contiguous() or x.is_neg():
                    self(self._adapt(missing))
                    return
                if x.shape != shape or x.device != device:
                    raise ValueError(
                        f"expected tensors of shape {tuple(shape)} on {device}, "
                        f"got {tuple(x.shape)} on {x.device}"
                    )
                addresses[place] = place_of = x.data_ptr()
                if not place_of and not self._empty:
                    self(self._adapt(missing))
                    return
                misaligned |= place_of % ALIGNMENT
        launch = self._launch
        if self._empty or (not misaligned and launch.lean(tuple(addresses))):
            return
        rest = iter(missing)
        launch.ordinary(tuple([next(rest) if x is None else x for x in self._arguments[0]]))

    def _adapt(self, missing: list[Tensor]) -> list[Tensor]:
        """`missing` as the kernel can read it; the launch is described anew for other dtypes."""
        missing = [readable(x) for x in missing]
        dtypes = [x.dtype for x in missing]
        if dtypes != self._dtypes:
            self._describe(dtypes)
        return missing

    def _describe(self, dtypes: list[torch.dtype]) -> None:
        inputs, outputs, table, clip, noise, known = self._arguments
        rest = iter(dtypes)
        kinds = [next(rest) if x is None else x.dtype for x in inputs]
        shown = [
            torch.empty((), dtype=kind, device=self._device).expand(self._shape) if x is None else x
            for x, kind in zip(inputs, kinds, strict=True)
        ]
        check_combine(shown, table, [y.dtype for y in outputs], clip, noise, known)
        self._launch = _launch(kinds, outputs, table, clip, noise, known)
        self._dtypes = dtypes


def bind(
    inputs: list[Tensor | None],
    outputs: list[Tensor],
    table: Tensor,
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
    known: Known | None = None,
) -> BoundLaunch:
    """`combine_into` with all but some inputs fixed; launches without inspecting its tensors.

    The call's tensors take the places of the inputs that are None, in order. The fixed tensors
    are held by address and read when it runs, so writing to coefficients, seeds, sample ids,
    draws or what is known in place takes effect, in a captured graph too.

    Raises:
        ValueError: a tensor does not fit (see `check_combine`), or one given here is not contiguous
            or not on the outputs' device.
    """
    check_bound(inputs, outputs, table, noise, outputs[0].device, known)
    return BoundLaunch(inputs, outputs, table, clip, noise, known)


def combine_into(
    inputs: list[Tensor],
    outputs: list[Tensor],
    table: Tensor,
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
    known: Known | None = None,
) -> None:
    """`combine.reference.combine_into`; raises a ValueError for outputs that are not contiguous."""
    check_outputs(outputs, inputs[0].shape, inputs, known)
    if outputs[0].numel() == 0:
        return
    if noise is not None:
        seeds, ids, draws, stream = noise
        noise = Noise(readable(seeds), readable(ids), readable(draws), stream)
    known = None if known is None else Known(*map(readable, known))
    launch = _launch([x.dtype for x in inputs], outputs, readable(table), clip, noise, known)
    launch(tuple([readable(x) for x in inputs]))


def combine(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[torch.dtype],
    clip: tuple[float, float] | None = None,
    noise: Noise | None = None,
    known: Known | None = None,
) -> list[Tensor]:
    """`combine.reference.combine`; the outputs are contiguous."""
    x = inputs[0]
    outputs = [torch.empty(x.shape, dtype=dtype, device=x.device) for dtype in dtypes]
    combine_into(inputs, outputs, table, clip, noise, known)
    return outputs


def _launch(
    kinds: list[torch.dtype],
    outputs: list[Tensor],
    table: Tensor,
    clip: tuple[float, float] | None,
    noise: Noise | None,
    known: Known | None,
) -> Launch:
    rows = outputs[0].shape[0]
    if noise is not None and noise.noises == 0:
        noise = None
    special = specialise(
        rows,
        outputs[0].numel() // max(rows, 1),
        kinds,
        [y.dtype for y in outputs],
        table.shape[0],
        clip is not None,
        0 if noise is None else noise.noises,
        1 if noise is None else noise.seeds.numel(),
        noise is not None and noise.draws.ndim == 2,
        None if known is None else (known.values.dtype, len(known.values), len(known.mask)),
    )
    g = special.geometry
    keys = (None, None, None) if noise is None else noise[:3]
    given = (None, None) if known is None else known
    stream = 0 if noise is None else int(noise.stream)
    low, high = (0, 0) if clip is None else (bits(clip[0]), bits(clip[1]))
    return Launch(
        combine_kernel,
        g.programs,
        tuple(kinds),
        (tuple(outputs), table, *keys, *given),
        (g.rows, g.elements, low, high, stream),
        special.constants(),
    )
