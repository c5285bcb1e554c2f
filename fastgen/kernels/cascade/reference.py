"""Many stages of a sampler in one pass: sums on the rows of a workspace, one after another."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels.cascade.contract import Sums, check_cascade, check_part
from fastgen.kernels.contract import HoldsAddresses, Noise
from fastgen.kernels.normals.reference import normals


class Cascade(HoldsAddresses):
    """Sums i = first .. last - 1, in this order: w[target_i] = clip_i(sum_t c_t w[source_t]).

    The terms of a sum are added from left to right in the workspace's dtype, each product and sum
    rounded once, coefficients rounded to that dtype first. A coefficient that is zero means that
    its term is absent. A source below 0 is standard normal noise: draw -1 - source of ``noise``.
    A sum may write a row that it reads, and later sums read what earlier ones have written, so that
    the stages of a whole window of a run are one call. They are `combine`'s sums, bit for bit.

    Args:
        work: [rows, B, ...], float32 or float64: what is read and written.
        coefficients: float64 [1 or B, terms], for all samples or one for each.
        sums: which sums.
        clip: (low, high) for those that are clipped.
        noise: seeds, sample ids and draw ids [K].

    Raises:
        ValueError: naming the argument that does not fit.
    """

    def __init__(
        self,
        work: Tensor,
        coefficients: Tensor,
        sums: Sums,
        clip: tuple[float, float] | None = None,
        noise: Noise | None = None,
    ) -> None:
        check_cascade(work, coefficients, sums, clip, noise)
        self.work, self.coefficients, self.sums = work, coefficients, sums
        self.clip, self.noise = clip, noise

    def __call__(self, first: int, last: int) -> None:
        """Form the sums ``first`` to ``last``, the last one excluded."""
        check_part(first, last, self.sums)
        work, dtype = self.work, self.work.dtype
        axes = [1] * (work.ndim - 2)
        factors = self.coefficients.to(dtype).reshape(*self.coefficients.shape, *axes)
        sources = self.sums.sources.tolist()
        for target, begin, end, clipped in self.sums.lines[first:last].tolist():
            total = torch.zeros_like(work[0])
            for t in range(begin, end):
                c = factors[:, t]
                total = torch.where(c == 0, total, total + c * self._term(sources[t]))
            if clipped and self.clip is not None:
                total = total.clamp(*self.clip)
            work[target] = total

    def _term(self, source: int) -> Tensor:
        if source >= 0:
            return self.work[source]
        assert self.noise is not None
        shape = self.work.shape[1:]
        seeds, ids, draws, stream = self.noise
        z = normals(shape[1:].numel(), seeds, ids, draws[-1 - source], stream)
        return z.reshape(shape).to(self.work.dtype)
