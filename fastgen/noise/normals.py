"""Reproducible Gaussian noise: a function of (seed, sample id, draw, element) and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.common.checks import check_floating_dtype, check_integer, check_range, check_sizes
from fastgen.common.devices import check_device
from fastgen.common.padding import Padding
from fastgen.kernels import Stream
from fastgen.noise.keys import id_tensor, seed_tensor


def randn(
    shape: Sequence[int],
    *,
    seed: int | Sequence[int] | Tensor = 0,
    draw: int = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    stream: int = Stream.INITIAL,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    mask: Tensor | None = None,
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
        mask: for samples of different lengths, True where an element is live; any shape that
            broadcasts to the shape. Live elements get, in their order, the numbers of a sample
            without padding, wherever the padding lies; it is 0.

    Raises:
        TypeError, ValueError: naming the argument that is not whole, or out of range.

    Example:
        >>> z = fastgen.randn((64, 3), seed=7)
        >>> torch.equal(z[41:42], fastgen.randn((1, 3), seed=7, sample_ids=[41]))
        True
    """
    size = check_sizes("shape", shape)
    draw = check_range("draw", draw, 32)
    stream = check_integer("stream", stream)
    check_floating_dtype("dtype", dtype)
    device = check_device("device", device)
    seeds = seed_tensor(seed, size[0], device)
    ids = id_tensor(sample_ids, size[0], device)
    return normals(size, seeds, ids, draw, stream, dtype, mask)


def normals(
    shape: Sequence[int],
    seeds: Tensor,
    sample_ids: Tensor,
    draw: int,
    stream: int = Stream.INITIAL,
    dtype: torch.dtype = torch.float32,
    mask: Tensor | None = None,
) -> Tensor:
    """`randn` of keys as `seed_tensor` and `id_tensor` give them, on their device."""
    size = torch.Size(shape)
    number = torch.full((1,), draw, dtype=torch.int64, device=sample_ids.device)
    z = kernels.normals(size[1:].numel(), seeds, sample_ids, number, stream)
    z = z.reshape(size).to(dtype)
    return z if mask is None else Padding(mask, z, name="shape").unpacked(z.reshape(len(z), -1))
