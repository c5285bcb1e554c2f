"""`cascade` in C++ on CPU tensors (``csrc/cascade``)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.cascade.contract import Sums, check_cascade, check_part
from fastgen.kernels.contract import HoldsAddresses, Noise
from fastgen.kernels.cpp_support import address, key_addresses, readable, thread_count


class Cascade(HoldsAddresses):
    """`cascade.reference.Cascade`; coefficients, keys and draws are read when it is called."""

    def __init__(
        self,
        work: Tensor,
        coefficients: Tensor,
        sums: Sums,
        clip: tuple[float, float] | None = None,
        noise: Noise | None = None,
    ) -> None:
        check_cascade(work, coefficients, sums, clip, noise)
        lines, sources = sums.lines.contiguous(), sums.sources.contiguous()
        if noise is not None:
            seeds, ids, draws, stream = noise
            noise = Noise(readable(seeds), readable(ids), readable(draws), stream)
        # Only addresses reach C++: the tensors behind them must live as long as this object.
        self._held = (work, coefficients, lines, sources, noise)
        self.sums = sums
        stride = work[0].numel()
        self._numbers: dict[str, Any] = {
            "rows": work.shape[1],
            "elements": stride // max(work.shape[1], 1),
            "float64": work.itemsize == 8,
            "work": address(work),
            "coefficients": address(coefficients),
            "terms": coefficients.shape[1],
            "coefficients_per_row": coefficients.shape[0] > 1,
            "lines": address(lines),
            "sources": address(sources),
            "clip": clip,
            "noise": None if noise is None else key_addresses(*noise[:2], noise.stream),
            "draws": 0 if noise is None else address(noise.draws),
        }

    def __call__(self, first: int, last: int) -> None:
        """Form the sums ``first`` to ``last``, the last one excluded."""
        check_part(first, last, self.sums)
        threads = thread_count(self._held[0][0].numel() * (last - first))
        _C.cascade(first=first, last=last, threads=threads, **self._numbers)
