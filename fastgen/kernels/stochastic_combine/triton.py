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
from fastgen.kernels.triton_support.launch import launch


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
    given = given or []
    if x.numel():
        case = _case(inputs, outputs, table, noise, given)
        _launch(case, inputs, outputs, table, noise, given)
    return outputs


class BoundStochasticLaunch(BoundStochastic):
    """`stochastic_combine.reference.bind_stochastic`; tables and draws are read on the device."""

    _dtypes: tuple[torch.dtype, ...] = ()

    def _run(
        self, inputs: list[Tensor], table: Tensor, noise: Noise | None, given: list[Tensor]
    ) -> None:
        if not self._outputs[0].numel():
            return
        dtypes = tuple([x.dtype for x in (*inputs, *given)])
        if dtypes != self._dtypes:  # all else stays from step to step
            self._case = _case(inputs, self._outputs, table, noise, given)
            self._dtypes = dtypes
        _launch(self._case, inputs, self._outputs, table, noise, given)


bind_stochastic = BoundStochasticLaunch


def _case(
    inputs: list[Tensor],
    outputs: list[Tensor],
    table: Tensor,
    noise: Noise | None,
    given: list[Tensor],
) -> StochasticCombineCase:
    first = outputs[0]
    rows = first.shape[0]
    return specialise(
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


def _launch(
    case: StochasticCombineCase,
    inputs: list[Tensor],
    outputs: list[Tensor],
    table: Tensor,
    noise: Noise | None,
    given: list[Tensor],
) -> None:
    seeds, sample_ids, draws, stream = noise if noise is not None else (None, None, None, 0)
    g = case.geometry
    keys = [None if x is None else readable(x) for x in (seeds, sample_ids, draws)]
    tensors = tuple(readable(x) for x in inputs), tuple(readable(z) for z in given)
    arguments = (*tensors, tuple(outputs), readable(table), *keys)
    scalars = g.rows, g.elements, int(stream)
    launch(stochastic_kernel, (g.programs, 1), arguments, scalars, case.constants())
