"""Brownian motions at any times, a function of (seed, sample id, tree, element, time)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.common.checks import as_numbers, check_floating_dtype, check_integer, check_sizes
from fastgen.common.devices import check_device, upload
from fastgen.common.transforms import outside_transforms
from fastgen.noise.keys import id_tensor, seed_tensor


@outside_transforms
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
    2020, arXiv 2001.01328, and `fastgen.kernels.brownian.reference`).

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
    size = torch.Size(check_sizes("shape", shape))
    device, tree = check_device("device", device), check_integer("tree", tree)
    check_floating_dtype("dtype", dtype)
    asked = as_numbers("times", times)
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
