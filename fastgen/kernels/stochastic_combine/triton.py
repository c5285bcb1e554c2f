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
from fastgen.kernels.triton_support.launch import Launch


class StochasticCombineCase(NamedTuple):
    """What a compiled `stochastic_kernel` depends on, beside dtypes and alignment."""

    geometry: Geometry
    noises: int
    given: int
    table_per_row: bool
    seed_per_row: bool
    draws_per_row: bool
    wide: bool

    def constants(self) -> tuple[Any, ...]:
        """The kernel's constexpr arguments, in order."""
        real = tl.float64 if self.wide else tl.float32
        return (*self[1:6], real, *self.geometry[2:])


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
    seeded = noises > 0 and seeds > 1
    return StochasticCombineCase(g, noises, len(given), by_row, seeded, draws_per_row, wide)


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
    if x.numel():
        # A table of one step, whose draws these are.
        run = BoundStochasticLaunch([], outputs, table[None], _one_step(noise))
        run.call(0, [readable(y) for y in inputs], [readable(z) for z in given or []])
    return outputs


def _one_step(noise: Noise | None) -> Noise | None:
    return None if noise is None else noise._replace(draws=noise.draws[None])


class BoundStochasticLaunch(BoundStochastic):
    """`stochastic_combine.reference.bind_stochastic`; tables and draws are read on the device."""

    _dtypes: tuple[torch.dtype, ...] | None = None

    def __call__(self, step: int, missing: list[Tensor]) -> None:
        """Compute with a step's table and draws and `missing` in the places of None."""
        rest = iter(missing)
        inputs = [next(rest) if x is None else x for x in self._inputs]
        self.call(step, inputs, [next(rest) if z is None else z for z in self._given])

    def call(self, step: int, inputs: list[Tensor], given: list[Tensor]) -> None:
        """The same with all inputs and given noises."""
        step = range(self._tables.shape[0])[step]
        if not self._outputs[0].numel():
            return
        tensors = (*inputs, *given)
        shape, device = self._outputs[0].shape, self._outputs[0].device
        for x in tensors:
            if x.shape != shape or x.device != device:
                raise ValueError(
                    f"expected tensors of shape {tuple(shape)} on {device}, got {tuple(x.shape)} "
                    f"on {x.device}"
                )
        dtypes = tuple([x.dtype for x in tensors])
        if dtypes != self._dtypes:  # all else stays from step to step
            self._launch = self._describe(inputs, given, dtypes)
            self._dtypes = dtypes
        self._launch(tuple([readable(x) for x in tensors]), step)

    def _describe(
        self, inputs: list[Tensor], given: list[Tensor], dtypes: tuple[torch.dtype, ...]
    ) -> Launch:
        noise = self._noise
        seeds, sample_ids, draws, stream = noise if noise is not None else (None, None, None, 0)
        case = _case(inputs, self._outputs, self._tables, noise, given)
        keys = [None if x is None else readable(x) for x in (seeds, sample_ids, draws)]
        # Copies, where there are any, are held by the launch.
        tensors = tuple(self._outputs), readable(self._tables), *keys
        scalars = case.geometry.rows, case.geometry.elements, int(stream)
        return Launch(
            stochastic_kernel,
            case.geometry.programs,
            dtypes,
            tensors,
            scalars,
            case.constants(),
            steps=True,
        )


bind_stochastic = BoundStochasticLaunch


def _case(
    inputs: list[Tensor],
    outputs: list[Tensor],
    tables: Tensor,
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
        tables.shape[1],
        0 if noise is None else noise.noises,
        1 if noise is None else noise.seeds.numel(),
        noise is not None and noise.draws.ndim == 3,
    )
