"""The virtual Brownian tree in C++ on CPU tensors (``csrc/brownian``)."""

import torch
from torch import Tensor

import fastgen._C as _C
from fastgen.kernels.brownian.contract import BROWNIAN_DEPTH, BROWNIAN_STREAM
from fastgen.kernels.contract import HoldsAddresses
from fastgen.kernels.cpp_support import address, key_addresses, pooled, readable, thread_count

# Numbers of one call: a fraction of a second, after which Python looks for a Ctrl-C.
AT_ONCE = 1 << 21


def brownian(
    elements: int,
    seeds: Tensor,
    sample_ids: Tensor,
    tree: int,
    times: Tensor,
    depth: int = BROWNIAN_DEPTH,
) -> Tensor:
    """`brownian.reference.brownian`; fastest where the times of a call increase or decrease."""
    count, rows = times.shape[0], sample_ids.shape[0]
    w = pooled((count, rows, elements), torch.float64)
    seeds, sample_ids, times = readable(seeds), readable(sample_ids), readable(times)
    per_row, threads = times.ndim == 2, thread_count(w.numel() * depth)
    together = max(1, AT_ONCE // max(1, rows * elements))  # times, else rows of one time
    block = max(1, rows if rows * elements <= AT_ONCE else AT_ONCE // elements)
    for first in range(0, count, together):
        for row in range(0, rows, block):
            some = slice(row, row + block)
            own = times[first : first + together]
            own = own if not per_row or block == rows else own[:, some]
            _C.brownian(
                rows=len(sample_ids[some]),
                elements=elements,
                noise=key_addresses(
                    seeds[some] if len(seeds) > 1 else seeds,
                    sample_ids[some],
                    BROWNIAN_STREAM + tree,
                ),
                times=address(own),
                count=len(own),
                per_row=per_row,
                depth=depth,
                output=address(w[first, row:]),
                threads=threads,
            )
    return w


class Walker(HoldsAddresses):
    """Increments of `brownian`, and those with areas of `brownian_area`, from one time to the next.

    It remembers the last path through the tree for its own sake: neighbouring times share most of
    theirs. No result depends on what was asked for before.

    Args:
        elements, seeds, sample_ids, tree, depth: as for `brownian`.
        factor: of all values of W, before they are subtracted.
        memory: bytes that may be kept, of which an element needs 120, or for the value at the last
            time alone 8.
    """

    def __init__(
        self,
        elements: int,
        seeds: Tensor,
        sample_ids: Tensor,
        tree: int,
        depth: int = BROWNIAN_DEPTH,
        factor: float = 1.0,
        memory: int = 1 << 28,
    ) -> None:
        # Only addresses reach C++: the tensors behind them must live as long as this object.
        self._keys = readable(seeds), readable(sample_ids)
        self._rows, self._elements = sample_ids.shape[0], elements
        keys = key_addresses(*self._keys, BROWNIAN_STREAM + tree)
        self._walker = _C.Walker(self._rows, elements, keys, depth, factor, memory)

    def increments(
        self, times: list[float], scales: list[float], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """(W(times[i + 1]) - W(times[i])) scales[i], rounded to dtype: [T - 1, rows, elements]."""
        return self._walk(times, scales, [], dtype)

    def with_areas(
        self,
        times: list[float],
        scales: list[float],
        area_scales: list[float],
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The same for the motion with areas, and H area_scales[i]: [2, T - 1, rows, elements]."""
        result = self._walk(times, scales, area_scales, dtype)
        return result.reshape(2, len(scales), self._rows, self._elements)

    def _walk(
        self, times: list[float], scales: list[float], areas: list[float], dtype: torch.dtype
    ) -> Tensor:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype={dtype}: expected float32 or float64")
        shape = len(scales) + len(areas), self._rows, self._elements
        result = pooled(shape, dtype)
        doubles, threads = dtype == torch.float64, thread_count(4 * result.numel())
        steps = max(1, AT_ONCE // max(1, self._rows * self._elements))
        if steps >= len(scales):
            self._walker.increments(times, scales, areas, address(result), doubles, threads)
            return result
        parts = result.reshape(2 if areas else 1, len(scales), self._rows, self._elements)
        for first in range(0, len(scales), steps):
            some = slice(first, first + steps)
            own = times[first : first + steps + 1], scales[some], areas[some]
            found = torch.empty_like(parts[:, some], memory_format=torch.contiguous_format)
            self._walker.increments(*own, address(found), doubles, threads)
            parts[:, some] = found
        return result
