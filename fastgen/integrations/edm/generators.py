"""A generator for each sample, as EDM's `generate.py` has it, and its lists of seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class StackedRandomGenerator:
    """Noise of a batch whose samples have a seed each: sample i's is that of seeds[i] alone.

    The numbers are those of torch's generators on the device, as in EDM, so those of a CPU and of
    a GPU differ; fastgen's own noise does not (`fastgen.randn` with sample ids).

    Args:
        device: where the generators are.
        seeds: one for each sample; what is beyond 32 bits is cut off, as in EDM.

    Raises:
        ValueError: from its methods, for another number of samples than there are seeds.
    """

    def __init__(self, device: torch.device | str, seeds: Iterable[int] | Tensor) -> None:
        self.generators = [torch.Generator(device).manual_seed(int(seed) % 2**32) for seed in seeds]

    def randn(self, size: Sequence[int], **kwargs: Any) -> Tensor:
        """Standard normal numbers [B, ...]; kwargs: of `torch.randn`."""
        each = self._size(size)
        return torch.stack([torch.randn(each, generator=g, **kwargs) for g in self.generators])

    def randn_like(self, input: Tensor) -> Tensor:
        """The same of a tensor's shape, dtype, layout and device."""
        like = {"dtype": input.dtype, "layout": input.layout, "device": input.device}
        return self.randn(input.shape, **like)

    def randint(self, *args: int, size: Sequence[int], **kwargs: Any) -> Tensor:
        """Integers [B, ...]; args and kwargs: of `torch.randint`."""
        each = self._size(size)
        draw: Any = torch.randint
        return torch.stack([draw(*args, size=each, generator=g, **kwargs) for g in self.generators])

    def _size(self, size: Sequence[int]) -> tuple[int, ...]:
        if not len(size) or size[0] != len(self.generators):
            raise ValueError(
                f"size={tuple(size)}: expected a batch of {len(self.generators)}, one for each seed"
            )
        return tuple(size[1:])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.generators)} generators)"


def parse_int_list(s: str | list[int]) -> list[int]:
    """Numbers and ranges, "1,2,5-10", as a list; a list is returned as it is.

    Raises:
        ValueError: for a part that is neither.
    """
    if isinstance(s, list):
        return s
    found: list[int] = []
    for part in s.split(","):
        begin, dash, end = part.strip().partition("-")
        if not begin.isdigit() or (dash and not end.isdigit()):
            raise ValueError(f"{part!r}: expected numbers and ranges such as '1,2,5-10'")
        found += range(int(begin), int(end if dash else begin) + 1)
    return found
