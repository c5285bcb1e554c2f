"""Reproducible Gaussian noise: a function of (seed, sample id, draw, element) and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen import kernels
from fastgen.devices import integers, upload
from fastgen.kernels import Stream


def randn(
    shape: Sequence[int],
    *,
    seed: int | Sequence[int] | Tensor = 0,
    draw: int = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    stream: int = Stream.INITIAL,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normals [B, ...] that do not depend on batch, device, layout or threads.

    Row b is a function of (its seed, its sample id, draw, stream): ``randn((64, 3), seed=7)[5]``
    equals ``randn((1, 3), seed=7, sample_ids=[5])[0]`` bit for bit. The bits are Philox4x32-10
    (Salmon et al. 2011), the normals Box-Muller in float32; other dtypes are rounded from those.

    Args:
        shape: [B, ...], the batch axis first.
        seed: one 64-bit seed for the run, or one per sample.
        draw: number of the draw, 0 <= draw < 2^32.
        sample_ids: B ids, 0 <= id < 2^48; the default is 0 .. B - 1.
        stream: family of draws, below 128 (from there on are the motions of `brownian`); the
            default is that of a sampler's initial noise.
        dtype: dtype of the result.
        device: where the numbers are made; they are the same everywhere.

    Raises:
        ValueError: naming the argument that is out of range.
    """
    size = torch.Size(shape)
    if len(size) == 0:
        raise ValueError("shape: expected a batch axis, got ()")
    if not 0 <= draw < 2**32:
        raise ValueError(f"draw={draw}: expected 0 <= draw < 2^32")
    device = torch.device(device)
    z = kernels.normals(
        size[1:].numel(),
        seed_tensor(seed, size[0], device),
        id_tensor(sample_ids, size[0], device),
        torch.full((1,), draw, dtype=torch.int64, device=device),
        stream,
    )
    return z.reshape(size).to(dtype)


def brownian(
    shape: Sequence[int],
    times: Sequence[float] | Tensor,
    *,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    tree: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard Brownian motions W on [0, 1] at any times, [T, B, ...]: W(0) = 0, W(1) ~ N(0, 1).

    W is a function of (seed, sample id, tree, element, time) and of nothing else: the same bits
    whichever times are asked for together or before. Times in order are cheapest. The law is
    exact for times of which no two share the inside of a cell [k, k + 1] 2^-24; within one cell
    each W(t) is N(0, t), but increments are not independent (virtual Brownian tree; Li et al.
    2020, arXiv 2001.01328, and `fastgen.kernels.reference.brownian`).

    Args:
        shape: [B, ...], the batch axis first.
        times: T times in [0, 1], in any order; a tensor [T, B] gives each sample its own.
        seed: one 64-bit seed for the run, or one per sample.
        sample_ids: B ids, 0 <= id < 2^48; the default is 0 .. B - 1.
        tree: number of the motion, 0 <= tree < 128; all of them are independent.
        dtype: dtype of the result. Differences over short intervals need float64.
        device: where the numbers are made; they are the same everywhere.

    Raises:
        ValueError: naming the argument that is out of range.
    """
    size = torch.Size(shape)
    if len(size) == 0:
        raise ValueError("shape: expected a batch axis, got ()")
    device = torch.device(device)
    asked = torch.as_tensor(times, dtype=torch.float64)
    outside = asked[~((asked >= 0) & (asked <= 1))]
    if outside.numel():
        raise ValueError(f"times: expected times in [0, 1], got {outside.flatten()[0].item()}")
    w = kernels.brownian(
        size[1:].numel(),
        seed_tensor(seed, size[0], device),
        id_tensor(sample_ids, size[0], device),
        tree,
        upload(asked, device),
    )
    return w.reshape(w.shape[0], *size).to(dtype)


def seed_tensor(seed: int | Sequence[int] | Tensor, batch: int, device: torch.device) -> Tensor:
    """Seeds as int64 [1] or [B]; unsigned 64-bit values keep their bits.

    Raises:
        ValueError: if the number of seeds is neither 1 nor B, or one needs more than 64 bits.
    """
    if isinstance(seed, Tensor):
        tensor = seed.to(device=device, dtype=torch.int64).reshape(-1)
    else:
        values = [seed] if isinstance(seed, int) else [int(s) for s in seed]
        for value in values:
            if not -(2**63) <= value < 2**64:
                raise ValueError(f"seed={value}: expected a 64-bit integer")
        signed = [v - 2**64 if v >= 2**63 else v for v in values]
        tensor = integers(signed, device)
    if tensor.numel() not in (1, batch):
        raise ValueError(f"seed: expected 1 or {batch} seeds, got {tensor.numel()}")
    return tensor


def id_tensor(
    sample_ids: Sequence[int] | Tensor | None, batch: int, device: torch.device
) -> Tensor:
    """Sample ids as int64 [B], 0 .. B - 1 by default.

    Raises:
        ValueError: if there are not B of them, or one is outside 0 .. 2^48 - 1.
    """
    if sample_ids is None:
        return torch.arange(batch, dtype=torch.int64, device=device)
    if not isinstance(sample_ids, Tensor):
        for value in sample_ids:
            if not 0 <= int(value) < 2**48:
                raise ValueError(f"sample_ids: expected 0 <= id < 2^48, got {value}")
        ids = integers([int(value) for value in sample_ids], device)
    else:
        ids = sample_ids.to(device=device, dtype=torch.int64).reshape(-1)
    if ids.numel() != batch:
        raise ValueError(f"sample_ids: expected {batch} ids for a batch of {batch}, got {len(ids)}")
    return ids
