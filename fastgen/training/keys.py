"""The keys of training noise and times: what the noise contract is told."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fastgen.kernels import Noise, Stream
from fastgen.noise import id_tensor, seed_tensor


def training_noise(
    rows: int,
    device: torch.device,
    seed: int | Tensor,
    step: int,
    sample_ids: Sequence[int] | Tensor | None,
) -> Noise:
    """The noise of one training step for a batch.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
    """
    step = _whole("step", step)
    seed = seed if isinstance(seed, Tensor) else _whole("seed", seed)
    if not 0 <= step < 2**32:
        raise ValueError(f"step={step}: expected 0 <= step < 2^32")
    seeds = _seed(seed, device) if isinstance(seed, int) else seed_tensor(seed, rows, device)
    ids = _in_order(rows, device) if sample_ids is None else id_tensor(sample_ids, rows, device)
    return Noise(seeds, ids, torch.tensor([step], device=device), Stream.TRAINING)


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}: expected a whole number") from None


# Batches of one size come by the thousand.
@lru_cache(maxsize=16)
def _seed(seed: int, device: torch.device) -> Tensor:
    return seed_tensor(seed, 1, device)


@lru_cache(maxsize=16)
def _in_order(rows: int, device: torch.device) -> Tensor:
    return torch.arange(rows, dtype=torch.int64, device=device)
