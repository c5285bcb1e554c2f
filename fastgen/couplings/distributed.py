"""One coupling over the batches of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from fastgen.couplings.coupling import Coupling


class GlobalBatch(Coupling):
    """Pairs the concatenated batches of a process group, as one process would.

    The first process couples, all get the result: it does not depend on how many there are, as
    long as the concatenation (by rank) is the same.

    Args:
        inner: the coupling of the global batch.
        group: the process group; None: all processes.
    """

    def __init__(self, inner: Coupling, group: dist.ProcessGroup | None = None):
        self._inner, self._group = inner, group

    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Indices into the global batches of all pairs, the same on every process."""
        gathered = [None if x is None else self._gather(x) for x in (x0, x1, labels0, labels1)]
        return self._indices(*gathered)

    def pair(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Of all pairs, the part of this process: consecutive, equal, the last may be shorter.

        Args:
            x0: [n, ...] of this process, the same shape on all; likewise x1 and labels.
        """
        gathered = [None if x is None else self._gather(x) for x in (x0, x1, labels0, labels1)]
        all0, all1, _, all_labels = gathered
        assert all0 is not None
        assert all1 is not None
        i, j = self._indices(*gathered)
        size, rank = dist.get_world_size(self._group), dist.get_rank(self._group)
        part = -(-len(i) // size)
        i, j = (k[part * rank : part * (rank + 1)] for k in (i, j))
        return (all0[i], all1[j]) if all_labels is None else (all0[i], all1[j], all_labels[j])

    def _gather(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(parts, x, group=self._group)
        return torch.cat(parts)

    def _indices(
        self, x0: Tensor | None, x1: Tensor | None, labels0: Tensor | None, labels1: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert x0 is not None
        assert x1 is not None
        pairs = torch.full((2, max(len(x0), len(x1))), -1, dtype=torch.int64, device=x0.device)
        # -2 in the first place tells the others of an error, so that none waits for ever.
        error: Exception | None = None
        if dist.get_rank(self._group) == 0:
            try:
                i, j = self._inner(x0, x1, labels0, labels1)
                pairs[0, : len(i)], pairs[1, : len(j)] = i, j
            except Exception as raised:
                error = raised
                pairs[0, 0] = -2
        dist.broadcast(pairs, group=self._group, group_src=0)
        if error is not None:
            raise error
        if pairs[0, 0] == -2:
            raise RuntimeError("GlobalBatch: the coupling failed on the first process")
        kept = pairs[0] >= 0
        return pairs[0, kept], pairs[1, kept]
