"""One training batch (`fastgen.kernels.bridge.reference`) in Triton, in one launch."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from fastgen.common.memory import readable
from fastgen.kernels.bridge.contract import FEATURES, TERMS, Clock
from fastgen.kernels.bridge.triton_kernels import bridge_kernel, times_kernel
from fastgen.kernels.contract import Noise, Stream, compute_dtype
from fastgen.kernels.triton_support.geometry import MAX_WIDE_TERMS, THREADS, Geometry, geometry
from fastgen.kernels.triton_support.launch import launch


def constants(
    g: Geometry, has_x0: bool, noisy: bool, recipe: bool, sampling: int, seeds: int, wide: bool
) -> tuple[Any, ...]:
    """The constexpr arguments of `bridge_kernel`, in order."""
    real = tl.float64 if wide else tl.float32
    return (int(has_x0), noisy, recipe, sampling, seeds > 1, real, *g[2:])


def cut(rows: int, elements: int, kinds: list[torch.dtype], noisy: bool) -> Geometry:
    """How a call with these sizes and dtypes is cut into programs.

    Beside noise the float64 coefficients leave no registers for groups of eight.
    """
    terms = MAX_WIDE_TERMS + 1 if noisy else TERMS
    return geometry(rows, elements, kinds, terms, int(noisy), True)


def bridge(
    x0: Tensor | None,
    x1: Tensor,
    index0: Tensor | None,
    index1: Tensor | None,
    coefficients: Tensor,
    times_or_clock: Tensor | Clock,
    noise: Noise,
    noisy: bool,
    dtypes: list[torch.dtype],
    time_dtype: torch.dtype,
) -> list[Tensor]:
    """`bridge.reference.bridge`; rows whose index is out of range are NaN."""
    rows, shape, device = noise.sample_ids.shape[0], x1.shape[1:], x1.device
    elements = shape.numel()
    outputs = [torch.empty((rows, *shape), dtype=kind, device=device) for kind in dtypes]
    clock = times_or_clock if isinstance(times_or_clock, Clock) else None
    if rows == 0 or elements == 0:
        t = times(*noise[:3], clock) if clock is not None else times_or_clock
        assert isinstance(t, Tensor)
        return [t.to(time_dtype), *outputs]
    t = torch.empty(rows, dtype=time_dtype, device=device)
    given = [readable(x) for x in (x0, x1) if x is not None]
    kinds = [x.dtype for x in given] + dtypes
    g = cut(rows, elements, kinds, noisy)
    wide = compute_dtype(kinds) == torch.float64
    recipe = coefficients.shape[-1] == FEATURES
    sampling = -1 if clock is None else int(clock.sampling)
    tensors = (
        tuple(given),
        tuple(outputs),
        None if index0 is None else readable(index0),
        None if index1 is None else readable(index1),
        readable(coefficients),
        readable(times_or_clock) if isinstance(times_or_clock, Tensor) else None,
        None if clock is None else readable(clock.quantiles),
        readable(noise.seeds),
        readable(noise.sample_ids),
        readable(noise.draws),
        t,
    )
    scalars = (
        rows,
        elements,
        0 if x0 is None else x0.shape[0],
        x1.shape[0],
        0 if clock is None else clock.quantiles.shape[0] - 1,
        int(noise.stream),
        int(Stream.TIME),
    )
    own = constants(g, x0 is not None, noisy, recipe, sampling, noise.seeds.shape[0], wide)
    launch(bridge_kernel, (g.programs, 1), tensors, scalars, own)
    return [t, *outputs]


def times(seeds: Tensor, sample_ids: Tensor, draw: Tensor, clock: Clock) -> Tensor:
    """`bridge.reference.times`, float64 [rows]."""
    rows = sample_ids.shape[0]
    t = torch.empty(rows, dtype=torch.float64, device=sample_ids.device)
    if rows == 0:
        return t
    tensors = t, readable(clock.quantiles), *map(readable, (seeds, sample_ids, draw))
    scalars = rows, clock.quantiles.shape[0] - 1, int(Stream.TIME)
    own = int(clock.sampling), seeds.shape[0] > 1, THREADS
    launch(times_kernel, (-(-rows // THREADS), 1), tensors, scalars, own)
    return t
