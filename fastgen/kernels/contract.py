"""What the kernels of all operations share: dtypes, streams of draws, and which noise is drawn."""

from enum import IntEnum
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

# Codes by which csrc knows the dtypes it reads and writes.
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


class Stream(IntEnum):
    """Families of draws that must never share numbers (counter word 3, bits 0..7).

    128 and above belong to Brownian motions, one to each tree id.
    """

    INITIAL = 0
    SOLVER = 1
    TRAINING = 2
    PROBE = 3
    PLAN = 4
    USER = 5
    TIME = 6


class HoldsAddresses:
    """What knows its tensors by their addresses: a copy would work on the original's memory.

    So it refuses to be copied and pickled. What holds such an object leaves it out of its copies
    and makes it again, on tensors of their own, when they first need it.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} holds the addresses of its tensors and cannot be copied or "
            "pickled; make another on the tensors of the copy"
        )


class Noise(NamedTuple):
    """Which standard normals a kernel call draws.

    seeds: int64 [1] or [rows], the keys; sample_ids: int64 [rows]; draws: int64 [K], one draw id
    per noise column of the coefficient table, or [rows, K] for rows at different steps of their
    runs; stream: the family of draws.
    """

    seeds: Tensor
    sample_ids: Tensor
    draws: Tensor
    stream: int = Stream.SOLVER

    @property
    def noises(self) -> int:
        """K, the number of draws of each row."""
        return self.draws.shape[-1]


def compute_dtype(dtypes: list[torch.dtype]) -> torch.dtype:
    """Arithmetic is float64 if any operand is, otherwise float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def check_noise(noise: Noise, rows: int, device: torch.device) -> None:
    """Raise a ValueError that names the field where a noise description does not fit."""
    for name, tensor, sizes in (
        ("seeds", noise.seeds, {1, rows}),
        ("sample_ids", noise.sample_ids, {rows}),
        ("draws", noise.draws, {rows} if noise.draws.ndim == 2 else None),
    ):
        if tensor.dtype != torch.int64 or not 1 <= tensor.ndim <= 1 + (name == "draws"):
            raise ValueError(f"noise.{name}: expected a 1-D int64 tensor, got {tensor}")
        if sizes is not None and tensor.shape[0] not in sizes:
            raise ValueError(
                f"noise.{name}: expected {' or '.join(map(str, sorted(sizes)))} entries for a "
                f"batch of {rows}, got {tensor.shape[0]}"
            )
        if tensor.device != device:
            raise ValueError(f"noise.{name}: expected device {device}, got {tensor.device}")
    if not 0 <= noise.stream < 256:
        raise ValueError(f"noise.stream: expected 0 to 255, got {noise.stream}")
