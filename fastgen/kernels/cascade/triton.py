"""`cascade` in Triton on CUDA and ROCm tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen.common.devices import upload
from fastgen.common.memory import readable
from fastgen.kernels.cascade.contract import Sums, check_cascade, check_part
from fastgen.kernels.cascade.triton_kernels import cascade_kernel
from fastgen.kernels.contract import HoldsAddresses, Noise
from fastgen.kernels.triton_support.geometry import Geometry, geometry
from fastgen.kernels.triton_support.launch import bits, launch


def specialise(
    rows: int, elements: int, dtype: torch.dtype, noises: int, by_row: bool, seeds: int
) -> tuple[Geometry, tuple[Any, ...]]:
    """How a call is cut, and the kernel's constexpr arguments, in order."""
    g = geometry(rows, elements, [dtype], 2, noises, by_row)
    return g, (bool(noises), by_row, bool(noises) and seeds > 1, *g[2:])


class Cascade(HoldsAddresses):
    """`cascade.reference.Cascade`; coefficients, keys and draws are read when it is called."""

    def __init__(
        self,
        work: Tensor,
        coefficients: Tensor,
        sums: Sums,
        clip: tuple[float, float] | None = None,
        noise: Noise | None = None,
    ) -> None:
        check_cascade(work, coefficients, sums, clip, noise)
        self.work, self.sums = work, sums
        lines, sources = (upload(x.contiguous(), work.device) for x in (sums.lines, sums.sources))
        keys: tuple[Tensor | None, ...] = (None, None, None)
        keys = keys if noise is None else tuple([readable(x) for x in noise[:3]])
        self._tensors = (work, coefficients, lines, sources, *keys)
        self._bounds = (0, 0) if clip is None else (bits(clip[0]), bits(clip[1]))
        self._stream = 0 if noise is None else int(noise.stream)
        rows = work.shape[1]
        noises = 0 if noise is None else noise.noises
        seeds = 1 if noise is None else noise.seeds.numel()
        by_row = coefficients.shape[0] > 1
        self._stride = work[0].numel()
        elements = self._stride // max(rows, 1)
        self._geometry, self._constants = specialise(
            rows, max(elements, 1), work.dtype, noises, by_row, seeds
        )

    def __call__(self, first: int, last: int) -> None:
        """Form the sums ``first`` to ``last``, the last one excluded."""
        check_part(first, last, self.sums)
        if not self._stride or first == last:
            return
        g, terms = self._geometry, self.sums.sources.numel()
        numbers = (g.rows, g.elements, self._stride, first, last, terms, *self._bounds)
        scalars = (*numbers, self._stream)
        launch(cascade_kernel, (g.programs, 1), self._tensors, scalars, self._constants)
