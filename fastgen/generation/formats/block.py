"""The samples of one shard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgen.common.display import displayed


@dataclass(frozen=True)
class Layout:
    """What all shards of a set have in common.

    shape: of one sample. dtype: NumPy's name of it. count: of samples in all. shard: of samples in
    a shard. labelled: whether each has a label.
    """

    shape: tuple[int, ...]
    dtype: str
    count: int
    shard: int
    labelled: bool = False

    @property
    def shards(self) -> int:
        """How many."""
        return -(-self.count // self.shard)

    def first(self, k: int) -> int:
        """The id of a shard's first sample."""
        return k * self.shard

    def rows(self, k: int) -> int:
        """Samples in a shard; in the last one there may be fewer."""
        return min(self.shard, self.count - k * self.shard)


@displayed
@dataclass(frozen=True)
class Block:
    """Samples first, first + 1, ... of a set, as they are stored.

    samples: [n, ...], images with channels first. labels: int64 [n], or None.
    """

    first: int
    samples: NDArray[Any] = field(repr=False)
    labels: NDArray[np.int64] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.samples)


def channels_last(samples: NDArray[Any]) -> NDArray[Any]:
    """Images [n, C, H, W] as [n, H, W, C], which evaluators read; others as they are."""
    return np.ascontiguousarray(np.moveaxis(samples, 1, -1)) if samples.ndim == 4 else samples


def channels_first(samples: NDArray[Any]) -> NDArray[Any]:
    """The way back."""
    return np.ascontiguousarray(np.moveaxis(samples, -1, 1)) if samples.ndim == 4 else samples


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays hold the same bits: NaN equals itself, and 0 is not -0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
