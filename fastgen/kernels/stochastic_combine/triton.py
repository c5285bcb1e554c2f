"""Combinations with random coefficients in Triton on CUDA and ROCm tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from fastgen.common.memory import readable
from fastgen.kernels.contract import Noise, compute_dtype
from fastgen.kernels.stochastic_combine.reference import BoundStochastic
from fastgen.kernels.stochastic_combine.triton_kernels import stochastic_kernel
from fastgen.kernels.triton_support.geometry import Geometry, geometry
from fastgen.kernels.triton_support.launch import OPTIONS, on_device


class StochasticCombineCase(NamedTuple):
    """What a compiled `stochastic_kernel` depends on, beside dtypes and alignment."""

    geometry: Geometry
    noises: int
    table_per_row: bool
    seed_per_row: bool
    draws_per_row: bool
    wide: bool

    def constants(self) -> tuple[Any, ...]:
        """The kernel's constexpr arguments, in order."""
        real = tl.float64 if self.wide else tl.float32
        return (*self[1:5], real, *self.geometry[2:])


def specialise(
    rows: int,
    elements: int,
    inputs: list[torch.dtype],
    given: list[torch.dtype],
    outputs: list[torch.dtype],
    table_rows: int,
    noises: int,
    seeds: int,
    draws_per_row: bool,
) -> StochasticCombineCase:
    """What a call with these sizes and dtypes needs."""
    by_row = table_rows > 1
    # Powers of the noise live beside the terms.
    terms = len(inputs) + 2 * (noises + len(given))
    g = geometry(rows, elements, inputs + given + outputs, terms, noises, by_row)
    wide = compute_dtype(inputs + outputs) == torch.float64
    return StochasticCombineCase(g, noises, by_row, noises > 0 and seeds > 1, draws_per_row, wide)


def stochastic_combine(
    inputs: list[Tensor],
    table: Tensor,
    dtypes: list[torch.dtype],
    noise: Noise | None = None,
    given: list[Tensor] | None = None,
) -> list[Tensor]:
    """`stochastic_combine.reference.stochastic_combine`; the outputs are contiguous."""
    x = inputs[0]
    outputs = [torch.empty(x.shape, dtype=dtype, device=x.device) for dtype in dtypes]
    _launch(inputs, outputs, table, noise, given or [])
    return outputs


class BoundStochasticLaunch(BoundStochastic):
    """`stochastic_combine.reference.bind_stochastic`; tables and draws are read on the device."""

    def _run(
        self, inputs: list[Tensor], table: Tensor, noise: Noise | None, given: list[Tensor]
    ) -> None:
        _launch(inputs, self._outputs, table, noise, given)


bind_stochastic = BoundStochasticLaunch


def _launch(
    inputs: list[Tensor],
    outputs: list[Tensor],
    table: Tensor,
    noise: Noise | None,
    given: list[Tensor],
) -> None:
    first = outputs[0]
    if first.numel() == 0:
        return
    rows = first.shape[0]
    seeds, sample_ids, draws, stream = noise if noise is not None else (None, None, None, 0)
    special = specialise(
        rows,
        first.numel() // rows,
        [x.dtype for x in inputs],
        [z.dtype for z in given],
        [y.dtype for y in outputs],
        table.shape[0],
        0 if noise is None else noise.noises,
        1 if noise is None else noise.seeds.numel(),
        noise is not None and noise.draws.ndim == 2,
    )
    g = special.geometry
    keys = [None if x is None else readable(x) for x in (seeds, sample_ids, draws)]
    tensors = tuple(readable(x) for x in inputs), tuple(readable(z) for z in given)
    arguments = (*tensors, tuple(outputs), readable(table), *keys)
    with on_device(first):
        stochastic_kernel[(g.programs,)](
            *arguments, g.rows, g.elements, int(stream), *special.constants(), **OPTIONS
        )
