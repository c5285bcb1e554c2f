"""The virtual Brownian tree in Triton on CUDA and ROCm tensors, without and with its areas."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.common.memory import readable
from fastgen.kernels.brownian.area_triton_kernels import brownian_area_kernel
from fastgen.kernels.brownian.contract import BROWNIAN_DEPTH, BROWNIAN_STREAM
from fastgen.kernels.brownian.triton_kernels import brownian_kernel
from fastgen.kernels.triton_support.geometry import THREADS, Geometry
from fastgen.kernels.triton_support.launch import launch

WIDTH = 4
MAX_TIMES = 65535  # the most that the second axis of a grid takes


def cut(rows: int, elements: int) -> Geometry:
    """How one time of a call is cut into programs."""
    groups = -(-elements // WIDTH)
    block = THREADS
    mixed = rows > 1 and -(-groups // block) * block > 1.25 * groups
    return Geometry(rows, elements, WIDTH, block, rows == 1, mixed, elements % WIDTH == 0)


def brownian(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    tree: int,
    times: Tensor,
    depth: int = BROWNIAN_DEPTH,
) -> Tensor:
    """`brownian.reference.brownian`."""
    count, rows = times.shape[0], sample_ids.shape[0]
    w = torch.empty((count, rows, elements), dtype=torch.float64, device=sample_ids.device)
    if w.numel() == 0:
        return w
    g = cut(rows, elements)
    keys, times = (readable(seeds), readable(sample_ids)), readable(times)
    constants = (seeds.shape[0] > 1, times.ndim == 2, *g[3:], depth)
    for at in range(0, count, MAX_TIMES):
        part, own = w[at : at + MAX_TIMES], times[at : at + MAX_TIMES]
        scalars, grid = (rows, elements, BROWNIAN_STREAM + tree), (g.programs, part.shape[0])
        launch(brownian_kernel, grid, (part, *keys, own), scalars, constants)
    return w


def brownian_area(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    tree: int,
    times: Tensor,
    depth: int = BROWNIAN_DEPTH,
) -> Tensor:
    """`brownian.area_reference.brownian_area`."""
    count, rows = times.shape[0], sample_ids.shape[0]
    shape = 2, count, rows, elements
    result = torch.empty(shape, dtype=torch.float64, device=sample_ids.device)
    if result.numel() == 0:
        return result
    g = cut(rows, elements)
    keys, times = (readable(seeds), readable(sample_ids)), readable(times)
    constants = (seeds.shape[0] > 1, times.ndim == 2, *g[3:], depth)
    for at in range(0, count, MAX_TIMES):
        part, own = result[:, at : at + MAX_TIMES], times[at : at + MAX_TIMES]
        scalars = rows, elements, BROWNIAN_STREAM + tree, count * rows * elements
        grid = g.programs, part.shape[1]
        launch(brownian_area_kernel, grid, (part, *keys, own), scalars, constants)
    return result
