"""Standard normals in Triton on CUDA and ROCm tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.common.memory import readable
from fastgen.kernels.normals.triton_kernels import normals_kernel
from fastgen.kernels.triton_support.geometry import geometry
from fastgen.kernels.triton_support.launch import launch


def normals(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    draw: Tensor | int,
    stream: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`normals.reference.normals`, [rows, elements], rounded to `dtype`."""
    device = sample_ids.device
    z = torch.empty((sample_ids.shape[0], elements), dtype=dtype, device=device)
    if z.numel() == 0:
        return z
    if not isinstance(draw, Tensor):  # filled on the device: no copy from the host
        draw = torch.full((1,), draw, dtype=torch.int64, device=device)
    rows = z.shape[0]
    g = geometry(rows, elements, [dtype], 1, 1, False)
    tensors = z, readable(seeds), readable(sample_ids), readable(draw)
    scalars = rows, elements, int(stream)
    launch(normals_kernel, (g.programs, 1), tensors, scalars, (seeds.shape[0] > 1, *g[2:]))
    return z
