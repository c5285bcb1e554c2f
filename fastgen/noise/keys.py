"""Seeds and sample ids as the noise contract is told them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fastgen.common.devices import integers
from fastgen.kernels import Noise, Stream


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
