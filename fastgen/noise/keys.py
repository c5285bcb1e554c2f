"""Seeds and sample ids as the noise contract is told them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen.common.checks import check_integer, check_range, check_real_device
from fastgen.common.devices import integers
from fastgen.common.kept import keeps
from fastgen.common.transforms import outside_transforms
from fastgen.kernels import Noise, Stream


@outside_transforms
def seed_tensor(seed: int | Sequence[int] | Tensor, batch: int, device: torch.device) -> Tensor:
    """Seeds as int64 [1] or [B]; unsigned 64-bit values keep their bits.

    Raises:
        TypeError: for what is not whole: real numbers, True and False.
        ValueError: if the number of seeds is neither 1 nor B, or one needs more than 64 bits.
    """
    if isinstance(seed, Tensor):
        tensor = _whole_tensor("seed", seed, device)
    else:
        values = [seed] if type(seed) is int else _whole_numbers("seed", seed)
        for value in values:
            if not -(2**63) <= value < 2**64:
                raise ValueError(f"seed={value}: expected a 64-bit integer")
        signed = [v - 2**64 if v >= 2**63 else v for v in values]
        tensor = integers(signed, device)
    if tensor.numel() not in (1, batch):
        raise ValueError(f"seed: expected 1 or {batch} seeds, got {tensor.numel()}")
    return tensor


@outside_transforms
def id_tensor(
    sample_ids: Sequence[int] | Tensor | None, batch: int, device: torch.device
) -> Tensor:
    """Sample ids as int64 [B], 0 .. B - 1 by default.

    Tensors are looked at once, which waits for their device: hand on what this returns.

    Raises:
        TypeError: for what is not whole: real numbers, True and False.
        ValueError: if there are not B of them, or one is outside 0 .. 2^48 - 1.
    """
    if sample_ids is None:
        return torch.arange(batch, dtype=torch.int64, device=device)
    if isinstance(sample_ids, Tensor):
        ids = _whole_tensor("sample_ids", sample_ids, device)
        if ids.numel() and _can_be_read(ids):
            _check_ids([int(end) for end in ids.aminmax()])
    else:
        numbers = _whole_numbers("sample_ids", sample_ids)
        _check_ids(numbers)
        ids = integers(numbers, device)
    if ids.numel() != batch:
        raise ValueError(
            f"sample_ids: expected {batch} ids for a batch of {batch}, got {ids.numel()}"
        )
    return ids


def _check_ids(ids: Iterable[int]) -> None:
    for value in ids:
        if not 0 <= value < 2**48:
            raise ValueError(f"sample_ids: expected 0 <= id < 2^48, got {value}")


def _whole_tensor(name: str, x: Tensor, device: torch.device) -> Tensor:
    if x.is_floating_point() or x.is_complex() or x.dtype is torch.bool:
        raise TypeError(f"{name}: expected whole numbers (torch.int64), got {x.dtype}")
    if device.type != "meta":
        check_real_device(name, x)
    return x.to(device=device, dtype=torch.int64).reshape(-1)


def _whole_numbers(name: str, given: Any) -> list[int]:
    """One number, or several, as ints."""
    if isinstance(given, np.ndarray):
        given = given.reshape(-1).tolist()
    if isinstance(given, str) or not isinstance(given, Iterable):
        return [check_integer(name, given, "or one for each sample")]
    return [check_integer(name, value) for value in given]


def _can_be_read(x: Tensor) -> bool:
    """Whether there are numbers to look at: not where calls are traced, recorded or mapped."""
    if type(x) is not Tensor or x.is_meta or torch.compiler.is_compiling():
        return False
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)


@outside_transforms
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
    step = check_range("step", step, 32)
    if isinstance(seed, Tensor):
        seeds = seed_tensor(seed, rows, device)
    else:
        seeds = _seed(check_integer("seed", seed), device)
    ids = ids_in_order(rows, device) if sample_ids is None else id_tensor(sample_ids, rows, device)
    return Noise(seeds, ids, torch.tensor([step], device=device), Stream.TRAINING)


# Batches of one size come by the thousand.
@keeps(16)
def _seed(seed: int, device: torch.device) -> Tensor:
    return seed_tensor(seed, 1, device)


@keeps(16)
def ids_in_order(rows: int, device: torch.device) -> Tensor:
    """The ids 0 .. B - 1, made once; nobody may write to them."""
    return torch.arange(rows, dtype=torch.int64, device=device)
