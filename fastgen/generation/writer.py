"""Shards go to the disk while the next one is drawn."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from fastgen.generation.folder import Folder
from fastgen.generation.formats.block import Block


class Writer:
    """One thread that puts shards on the disk, one after another.

    Coding, checksums and the disk itself give Python's lock away, so that a GPU, or the cores that
    are free, draw meanwhile. One shard is written at a time: whoever is ahead waits, and with the
    shard being drawn two are in memory, and the bytes of the one as its format has them.

    A shard that could not be written raises its error at the next `put`, or at the end of the
    block; none after it is written. Shards are written whole or not at all, as `Folder.write`
    does it, in whatever moment the process is killed.

    Args:
        folder: where they go.
        keep: whether every feature is wanted, and not their moments alone.
        device: what draws, for the records.
        count: of torch's threads here too, on which the bits of moments depend.
    """

    def __init__(self, folder: Folder, keep: bool, device: str, count: int) -> None:
        self._folder, self._keep, self._device = folder, keep, device
        self._pool = ThreadPoolExecutor(1, "fastgen-writer", torch.set_num_threads, (count,))
        self._shard: int | None = None
        self._written: Future[None] | None = None

    def missing(self, k: int, closely: bool = False) -> bool:
        """Whether a shard is neither on the disk nor on its way there."""
        return k != self._shard and self._folder.missing(k, closely)

    def put(self, k: int, block: Block, features: NDArray[np.float32] | None) -> None:
        """Write a shard, as soon as the one before is on the disk.

        Raises:
            OSError: of the shard before.
        """
        self.wait()
        own = k, block, features, self._keep, self._device
        self._written, self._shard = self._pool.submit(self._folder.write, *own), k

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            OSError: of the shard that was.
        """
        written, self._written = self._written, None
        try:
            if written is not None:
                written.result()
        finally:
            self._shard = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._pool.shutdown()  # what is being written is finished, whatever has happened since
        if error is None:
            self.wait()
