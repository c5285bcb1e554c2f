"""What the kernels of all operations share: dtypes, streams of draws, and which noise is drawn."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from fastgen.common.checks import check_tensor
from fastgen.common.display import displayed

# Codes by which csrc knows the dtypes it reads and writes.
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


# Elements of one sample: the counter has 40 bits for its blocks of four.
MAX_ELEMENTS = 2**42


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
    RESAMPLING = 7


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


@displayed
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


def kind_of(name: str, code: int) -> torch.dtype:
    """The dtype of a code of an operator's call, or a ValueError that names the argument."""
    kinds = list(DTYPE_CODES)
    if not 0 <= code < len(kinds):
        raise ValueError(f"{name}={code}: expected a code from 0 to {len(kinds) - 1}")
    return kinds[code]


def kinds_of(name: str, codes: Sequence[int]) -> list[torch.dtype]:
    """`kind_of` each."""
    return [kind_of(f"{name}[{i}]", code) for i, code in enumerate(codes)]


def codes_of(name: str, kinds: Sequence[torch.dtype]) -> list[int]:
    """Codes of dtypes, or a ValueError that names the one that no kernel has."""
    for i, kind in enumerate(kinds):
        if kind not in DTYPE_CODES:
            raise ValueError(f"{name}[{i}]: expected one of {list(DTYPE_CODES)}, got {kind}")
    return [DTYPE_CODES[kind] for kind in kinds]


def noise_of(
    seeds: Tensor | None, ids: Tensor | None, draws: Tensor | None, stream: int
) -> Noise | None:
    """The noise of an operator's call, None without any; a ValueError for a part of one."""
    parts = {"seeds": seeds, "sample_ids": ids, "draws": draws}
    absent = [name for name, part in parts.items() if part is None]
    if len(absent) == len(parts):
        return None
    if seeds is None or ids is None or draws is None:
        raise ValueError(f"{' and '.join(absent)}: expected all of {list(parts)}, or none of them")
    return Noise(seeds, ids, draws, stream)


def compute_dtype(dtypes: list[torch.dtype]) -> torch.dtype:
    """Arithmetic is float64 if any operand is, otherwise float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def check_elements(elements: int) -> None:
    """Raise a ValueError for a number of elements that no sample has."""
    if not 0 <= elements <= MAX_ELEMENTS:
        raise ValueError(f"elements={elements}: expected a number from 0 to 2^42")


def rows_of_ids(sample_ids: Tensor) -> int:
    """The number of samples; an error for ids that are not a list."""
    check_tensor("sample_ids", sample_ids)
    if sample_ids.ndim != 1:
        raise ValueError(f"sample_ids: expected int64 [rows], got {list(sample_ids.shape)}")
    return sample_ids.shape[0]


def check_noise(noise: Noise, rows: int, device: torch.device, draws: int | None = None) -> None:
    """Raise a ValueError that names the field where a noise description does not fit.

    draws: where a call has one list of so many draw ids for all rows.
    """
    for name, tensor in zip(noise._fields[:3], noise[:3], strict=True):
        check_tensor(f"noise.{name}", tensor)
        if tensor.dtype != torch.int64 or not 1 <= tensor.ndim <= 1 + (name == "draws"):
            raise ValueError(
                f"noise.{name}: expected a 1-D int64 tensor, got {tensor.dtype} "
                f"{list(tensor.shape)}"
            )
        # One after the other, not as a set: sizes may be symbols of a traced call.
        sizes = (1, rows) if name == "seeds" else (rows,)
        if (name != "draws" or tensor.ndim == 2) and tensor.shape[0] not in sizes:
            raise ValueError(
                f"noise.{name}: expected {' or '.join(dict.fromkeys(map(str, sizes)))} entries "
                f"for a batch of {rows}, got {tensor.shape[0]}"
            )
        if tensor.device != device:
            raise ValueError(f"noise.{name}: expected device {device}, got {tensor.device}")
    if draws is not None and tuple(noise.draws.shape) != (draws,):
        raise ValueError(
            f"noise.draws: expected {draws} draw id{'s' * (draws != 1)}, got a tensor of shape "
            f"{list(noise.draws.shape)}"
        )
    if not 0 <= noise.stream < 256:
        raise ValueError(f"noise.stream: expected 0 to 255, got {noise.stream}")
