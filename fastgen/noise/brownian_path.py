"""Brownian motions on an interval: any grid follows the same path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import as_numbers, check_floating_dtype, check_integer, check_sizes
from fastgen.common.devices import check_device, upload
from fastgen.common.display import displayed, figure
from fastgen.common.transforms import outside_transforms
from fastgen.kernels import dispatch
from fastgen.kernels.brownian.contract import BROWNIAN_DEPTH, check_brownian
from fastgen.kernels.brownian.operator import brownian
from fastgen.noise.keys import id_tensor, seed_tensor


@displayed
class BrownianPath:
    """Brownian motions W on [t0, t1], one for each element, W(t0) = 0: a function of the time.

    The motion of `fastgen.brownian`, scaled to the interval: any times, in any order, forwards or
    backwards, give the same bits. A solve with smaller steps follows the same path. Times that
    divide the interval into a power of two parts are cheapest by far. On a CPU a path remembers
    the nodes above the last time, 120 bytes for each element, for the sake of the next: that
    changes the time it takes, and no result.

    Args:
        shape: [B, ...], the batch axis first.
        t0, t1: the interval, t0 < t1.
        seed: one 64-bit seed, or one per sample.
        sample_ids: B ids, 0 <= id < 2^48; the default is 0 .. B - 1.
        tree: number of the motion, 0 <= tree < 128.
        levy_area: another motion, which knows its space-time Levy area too: `with_area`. Twice
            the work.
        depth: levels of bisection, 1 to 24. Increments are independent over steps of at least
            2^-depth of the interval; other times than its multiples cost a normal number for
            each level.
        dtype: dtype of increments.
        device: where they are made.

    Raises:
        ValueError: naming the argument.
    """

    @outside_transforms
    def __init__(
        self,
        shape: Sequence[int],
        t0: float = 0.0,
        t1: float = 1.0,
        *,
        seed: int | Sequence[int] | Tensor = 0,
        sample_ids: Sequence[int] | Tensor | None = None,
        tree: int = 0,
        levy_area: bool = False,
        depth: int = BROWNIAN_DEPTH,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = torch.Size(check_sizes("shape", shape))
        self.t0, self.t1 = float(t0), float(t1)
        if not self.t0 < self.t1 or not math.isfinite(self.t1 - self.t0):
            raise ValueError(f"t0={t0}, t1={t1}: expected finite t0 < t1")
        self.root = math.sqrt(self.t1 - self.t0)
        check_floating_dtype("dtype", dtype)
        self.dtype, self.device = dtype, check_device("device", device)
        self.tree, self.depth = check_integer("tree", tree), check_integer("depth", depth)
        self.levy_area = levy_area
        self.seeds = seed_tensor(seed, self.shape[0], self.device)
        self.sample_ids = id_tensor(sample_ids, self.shape[0], self.device)
        none = torch.empty(0, dtype=torch.float64, device=self.device)
        check_brownian(0, self.seeds, self.sample_ids, tree, none, depth)
        self._walker: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_walker": None}

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"shape": self.shape, "t0": self.t0, "t1": self.t1}
        facts |= {"seed": figure(self.seeds), "levy_area": self.levy_area}
        facts |= {"tree": self.tree} if self.tree else {}
        return {**facts, "depth": self.depth, "dtype": self.dtype, "device": self.device}

    @outside_transforms
    def at(self, times: Sequence[float] | Tensor) -> Tensor:
        """W at T times, in any order, [T, B, ...], float64; a tensor [T, B] is each sample's own.

        Raises:
            ValueError: for times outside of [t0, t1], where they are on the CPU.
        """
        unit = self._unit(as_numbers("times", times))
        w = self._values(unit)[0] if self.levy_area else self._values(unit)
        return w.mul_(self.root)

    @outside_transforms
    def with_integral(self, times: Sequence[float] | Tensor) -> tuple[Tensor, Tensor]:
        """W, and its integral from t0, at times as those of `at`; both [T, B, ...], float64.

        Raises:
            ValueError: as `at`, and for a path without levy_area=True.
        """
        self._check_area()
        w, integral = self._values(self._unit(as_numbers("times", times)))
        return w * self.root, integral * (self.root * (self.t1 - self.t0))

    def _check_area(self) -> None:
        if not self.levy_area:
            raise ValueError("levy_area=False: this motion knows W alone; ask for levy_area=True")

    @outside_transforms
    def __call__(self, s: float | Tensor, t: float | Tensor) -> Tensor:
        """W(t) - W(s), [B, ...]; times are numbers, or [B]."""
        both = torch.stack([as_numbers("s", s), as_numbers("t", t)])
        return self.steps(both, torch.ones(1, dtype=torch.float64, device="cpu"))[0]

    @outside_transforms
    def with_area(self, s: float, t: float) -> tuple[Tensor, Tensor]:
        """W(t) - W(s), and the space-time Levy area H over [s, t]; [B, ...].

        H is the mean over [s, t] of W_u - W_s - (u - s) / (t - s) (W_t - W_s): N(0, (t - s) / 12),
        and independent of the increment (Foster, Lyons and Oberhauser 2020, arXiv 1904.06998).

        Raises:
            ValueError: for s = t, or a path without levy_area=True.
        """
        both = torch.tensor([s, t], dtype=torch.float64, device="cpu")
        w, h = self.steps_with_area(both, *torch.ones(2, 1, dtype=torch.float64, device="cpu"))
        return w[0], h[0]

    @outside_transforms
    def steps(self, times: Tensor, scales: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(W(t_{i+1}) - W(t_i)) scale_i for T times, or times [T, B]: [T - 1, B, ...]."""
        unit, dtype = self._unit(times), dtype or self.dtype
        walker = None if self.levy_area else self._walk(unit, dtype)
        if walker is not None:
            found: Tensor = walker.increments(unit.tolist(), scales.tolist(), dtype)
            return found.reshape(-1, *self.shape)
        if self.levy_area and unit.ndim == 1 and bool(unit.diff().all()):
            return self.steps_with_area(times, scales, scales, dtype)[0]
        return (self.at(times).diff(dim=0) * self._column(scales)).to(dtype)

    @outside_transforms
    def steps_with_area(
        self, times: Tensor, scales: Tensor, area_scales: Tensor, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same for T times, and H_i area_scale_i of each step."""
        self._check_area()
        unit, dtype = self._unit(times), dtype or self.dtype
        lengths = unit.diff()
        if not bool(lengths.all()):
            raise ValueError("times: a step of no length has no area")
        area_scales = area_scales * self.root
        walker = self._walk(unit, dtype)
        if walker is not None:
            areas = area_scales.tolist()
            both = walker.with_areas(unit.tolist(), scales.tolist(), areas, dtype)
            w, h = both.reshape(2, -1, *self.shape)
            return w, h
        w, integral = self._values(unit)
        mean = integral.diff(dim=0) / self._column(lengths)
        h = (mean - (w[:-1] + w[1:]) * 0.5) * self._column(area_scales)
        return ((w * self.root).diff(dim=0) * self._column(scales)).to(dtype), h.to(dtype)

    def _unit(self, asked: Tensor) -> Tensor:
        if asked.device.type == "cpu":
            outside = asked[~((asked >= self.t0) & (asked <= self.t1))]
            if outside.numel():
                raise ValueError(
                    f"times: expected times in [{self.t0}, {self.t1}], "
                    f"got {outside.flatten()[0].item()}"
                )
        # The ends are themselves, whatever the division rounds.
        part = ((asked - self.t0) / (self.t1 - self.t0)).clamp(0, 1)
        return torch.where(asked == self.t1, 1.0, part)

    def _values(self, unit: Tensor) -> Tensor:
        """W, or with areas W and its integral, at times of [0, 1]."""
        keys = self.seeds, self.sample_ids, self.tree, upload(unit, self.device), self.depth
        elements = self.shape[1:].numel()
        if not self.levy_area:
            return brownian(elements, *keys).reshape(-1, *self.shape)
        both: Tensor = dispatch.find("brownian_area", self.device)(elements, *keys)
        return both.reshape(2, -1, *self.shape)

    def _walk(self, unit: Tensor, dtype: torch.dtype) -> Any:
        """What walks from time to time in C++; None where something else does."""
        if unit.ndim > 1 or not unit.is_cpu or dtype not in (torch.float32, torch.float64):
            return None
        walker = dispatch.load("brownian_walker", dispatch.choose(self.device))
        if walker is not None and self._walker is None:
            keys = self.seeds, self.sample_ids, self.tree
            self._walker = walker(self.shape[1:].numel(), *keys, self.depth, self.root)
        return walker and self._walker

    def _column(self, x: Tensor) -> Tensor:
        return x.to(self.device).reshape(-1, *[1] * len(self.shape))
