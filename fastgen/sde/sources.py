"""Where the noise of a solve comes from: numbered draws, or increments of a Brownian motion."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.common.rounding import square_root
from fastgen.common.transforms import outside_transforms
from fastgen.kernels import Noise, Stream
from fastgen.noise.brownian_path import BrownianPath

# So many steps' increments are asked for together: their times share ancestors in the tree. Of
# large states it is fewer, so that the increments kept have at most so many elements.
STEPS_AT_ONCE = 16
ELEMENTS_AT_ONCE = 1 << 22


class Source(Protocol):
    """Unit noises of numbered steps."""

    area: bool

    def units(self, n: int, count: int) -> list[Tensor]:
        """z, or z and z', of step n: standard normals of the noise's shape.

        z = dW / sqrt(h), z' = sqrt(12 / h) H with the space-time Levy area H.
        """


class Draws:
    """Draws 2 n and 2 n + 1 of the noise contract are z and z' of step n."""

    area = True

    def __init__(
        self, shape: torch.Size, seeds: Tensor, sample_ids: Tensor, dtype: torch.dtype
    ) -> None:
        self.shape, self.seeds, self.sample_ids, self.dtype = shape, seeds, sample_ids, dtype

    @outside_transforms
    def noise(self, steps: int, count: int) -> Noise:
        """What kernels draw themselves: draw ids [steps, count]."""
        draws = torch.arange(2 * steps, device=self.sample_ids.device).reshape(steps, 2)
        return Noise(self.seeds, self.sample_ids, draws[:, :count].contiguous(), Stream.SOLVER)

    @outside_transforms
    def units(self, n: int, count: int) -> list[Tensor]:
        """See `Source`."""
        found = []
        for k in range(count):
            draw = torch.full((1,), 2 * n + k, dtype=torch.int64, device=self.sample_ids.device)
            z = kernels.normals(
                self.shape[1:].numel(), self.seeds, self.sample_ids, draw, Stream.SOLVER
            )
            found.append(z.reshape(self.shape).to(self.dtype))
        return found


class PathIncrements:
    """Increments of a `BrownianPath` over the steps of a grid, several steps at once."""

    @outside_transforms
    def __init__(self, path: BrownianPath, grid: Tensor, dtype: torch.dtype) -> None:
        self.path, self.grid, self.dtype = path, grid, dtype
        self.area = path.levy_area
        self.scales = square_root(grid.diff().abs()).reciprocal()
        self.at_once = max(1, min(STEPS_AT_ONCE, ELEMENTS_AT_ONCE // max(path.shape.numel(), 1)))
        self.first = 0
        self.known: list[tuple[Tensor, ...]] = []

    @outside_transforms
    def units(self, n: int, count: int) -> list[Tensor]:
        """See `Source`. Neighbouring steps are cheapest, in either direction."""
        if not self.first <= n < self.first + len(self.known):
            self.first = n // self.at_once * self.at_once
            part = slice(self.first, min(self.first + self.at_once, len(self.grid) - 1))
            times, scales = self.grid[part.start : part.stop + 1], self.scales[part]
            found: tuple[Tensor, ...]
            if self.area:
                areas = math.sqrt(12) * scales
                found = self.path.steps_with_area(times, scales, areas, self.dtype)
            else:
                found = (self.path.steps(times, scales, self.dtype),)
            self.known = list(zip(*(z.unbind(0) for z in found), strict=True))
        return list(self.known[n - self.first][:count])


class CallableIncrements:
    """Increments from a user's function noise(s, t), s < t; with H from noise.with_area(s, t)."""

    @outside_transforms
    def __init__(self, noise: Any, grid: Tensor, shape: torch.Size, like: Tensor) -> None:
        self.noise, self.shape, self.like = noise, shape, like
        self.grid: list[float] = grid.tolist()
        self.area = hasattr(noise, "with_area")

    @outside_transforms
    def units(self, n: int, count: int) -> list[Tensor]:
        """See `Source`."""
        start, end = self.grid[n], self.grid[n + 1]
        low, high = min(start, end), max(start, end)
        root = math.sqrt(high - low)
        if count == 1:
            found = [self._checked(self.noise(low, high)) / root]
        else:
            w, h = self.noise.with_area(low, high)
            found = [self._checked(w) / root, self._checked(h) * (math.sqrt(12) / root)]
        if end < start:  # H, the area below the bridge, is the same from both ends
            found[0] = -found[0]
        return [z.to(self.like) for z in found]

    def _checked(self, x: Any) -> Tensor:
        if not isinstance(x, Tensor) or x.shape != self.shape:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"noise: expected increments of shape {tuple(self.shape)} from noise(s, t), "
                f"got {got}"
            )
        return x.detach()


@outside_transforms
def grid_of(times: Tensor, dt: float) -> tuple[Tensor, list[int]]:
    """Times of steps of at most dt, equal between two outputs, which are hit; where outputs are."""
    parts, places = [times[:1]], [0]
    for start, end in pairwise(times.tolist()):
        count = max(1, math.ceil(abs(end - start) / dt * (1 - 1e-9)))
        inner = torch.arange(1, count + 1, dtype=torch.float64, device="cpu") / count
        part = start + inner * (end - start)
        part[-1] = end
        parts.append(part)
        places.append(places[-1] + count)
    return torch.cat(parts), places
