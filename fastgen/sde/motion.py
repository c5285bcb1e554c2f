"""Where the noise of a solve comes from: numbered draws, or increments of a Brownian motion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgen import kernels
from fastgen.devices import upload
from fastgen.kernels import Noise, Stream
from fastgen.noise import id_tensor, seed_tensor
from fastgen.sde.program import square_root

# Grid times whose values are asked for together: they share their ancestors in the tree.
CHUNK = 16
CHUNK_ELEMENTS = 1 << 22


class BrownianPath:
    """Brownian motions W on [t0, t1], one for each element, W(t0) = 0: a function of the time.

    The motion of `fastgen.brownian`, scaled to the interval: any times, in any order, forwards or
    backwards, give the same bits, and nothing is stored. A solve with smaller steps follows the
    same path. Times that divide the interval into a power of two parts are cheapest by far.

    Args:
        shape: [B, ...], the batch axis first.
        t0, t1: the interval, t0 < t1.
        seed: one 64-bit seed, or one per sample.
        sample_ids: B ids, 0 <= id < 2^48; the default is 0 .. B - 1.
        tree: number of the motion, 0 <= tree < 128.
        dtype: dtype of increments.
        device: where they are made.

    Raises:
        ValueError: naming the argument.
    """

    def __init__(
        self,
        shape: Sequence[int],
        t0: float = 0.0,
        t1: float = 1.0,
        *,
        seed: int | Sequence[int] | Tensor = 0,
        sample_ids: Sequence[int] | Tensor | None = None,
        tree: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = torch.Size(shape)
        self.t0, self.t1 = float(t0), float(t1)
        if not self.t0 < self.t1 or not math.isfinite(self.t1 - self.t0):
            raise ValueError(f"t0={t0}, t1={t1}: expected finite t0 < t1")
        if len(self.shape) == 0:
            raise ValueError("shape: expected a batch axis, got ()")
        self.dtype, self.device, self.tree = dtype, torch.device(device), tree
        self.seeds = seed_tensor(seed, self.shape[0], self.device)
        self.sample_ids = id_tensor(sample_ids, self.shape[0], self.device)

    def at(self, times: Sequence[float] | Tensor) -> Tensor:
        """W at T times, in any order, [T, B, ...], float64; a tensor [T, B] is each sample's own.

        Raises:
            ValueError: for times outside of [t0, t1], where they are on the CPU.
        """
        asked = torch.as_tensor(times, dtype=torch.float64)
        if asked.device.type == "cpu":
            outside = asked[~((asked >= self.t0) & (asked <= self.t1))]
            if outside.numel():
                raise ValueError(
                    f"times: expected times in [{self.t0}, {self.t1}], "
                    f"got {outside.flatten()[0].item()}"
                )
        length = self.t1 - self.t0
        # The ends are themselves, whatever the division rounds.
        unit = torch.where(asked == self.t1, 1.0, ((asked - self.t0) / length).clamp(0, 1))
        elements = self.shape[1:].numel()
        w = kernels.brownian(
            elements, self.seeds, self.sample_ids, self.tree, upload(unit, self.device)
        )
        return w.reshape(len(w), *self.shape).mul_(math.sqrt(length))

    def __call__(self, s: float | Tensor, t: float | Tensor) -> Tensor:
        """W(t) - W(s), [B, ...]; times are numbers, or [B]."""
        both = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in (s, t)])
        low, high = self.at(both).unbind(0)
        return high.sub_(low).to(self.dtype)


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

    def noise(self, steps: int, count: int) -> Noise:
        """What kernels draw themselves: draw ids [steps, count]."""
        draws = torch.arange(2 * steps, device=self.sample_ids.device).reshape(steps, 2)
        return Noise(self.seeds, self.sample_ids, draws[:, :count].contiguous(), Stream.SOLVER)

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

    area = False

    def __init__(self, path: BrownianPath, grid: Tensor, dtype: torch.dtype) -> None:
        self.path, self.grid, self.dtype = path, grid, dtype
        self.roots = square_root(grid.diff().abs())
        self.chunk = max(1, min(CHUNK, CHUNK_ELEMENTS // max(path.shape.numel(), 1)))
        self.first, self.known = 0, torch.empty(0)

    def units(self, n: int, count: int) -> list[Tensor]:
        """See `Source`. Neighbouring steps are cheapest, in either direction."""
        if not self.first <= n < self.first + len(self.known):
            self.first = n // self.chunk * self.chunk
            part = slice(self.first, min(self.first + self.chunk, len(self.grid) - 1) + 1)
            steps = self.path.at(self.grid[part]).diff(dim=0)
            roots = self.roots[part.start : part.stop - 1].to(steps.device)
            column = (-1, *[1] * (steps.ndim - 1))
            self.known = steps.div_(roots.reshape(column)).to(self.dtype)
        return [self.known[n - self.first]]


class CallableIncrements:
    """Increments from a user's function noise(s, t), s < t; with H from noise.with_area(s, t)."""

    def __init__(self, noise: Any, grid: Tensor, shape: torch.Size, like: Tensor) -> None:
        self.noise, self.shape, self.like = noise, shape, like
        self.grid: list[float] = grid.tolist()
        self.area = hasattr(noise, "with_area")

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


def grid_of(times: Tensor, dt: float) -> tuple[Tensor, list[int]]:
    """Times of steps of at most dt, equal between two outputs, which are hit; where outputs are."""
    parts, places = [times[:1]], [0]
    for start, end in pairwise(times.tolist()):
        count = max(1, math.ceil(abs(end - start) / dt * (1 - 1e-9)))
        inner = torch.arange(1, count + 1, dtype=torch.float64) / count
        part = start + inner * (end - start)
        part[-1] = end
        parts.append(part)
        places.append(places[-1] + count)
    return torch.cat(parts), places
