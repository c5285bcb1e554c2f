"""azula's noise schedules as schedules of fastgen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.common.display import brief
from fastgen.schedules import UserSchedule


class AzulaSchedule(UserSchedule):
    """alpha(t) and sigma(t) of an azula schedule for t > 0, and data itself at t = 0.

    Times are azula's: 0 data, 1 noise. Its schedules leave a little noise at t = 0, sigma(0) = 1e-3
    for most of them, and its samplers stop there; here sigma jumps to 0 at t = 0, as that of
    `fastgen.schedules.VE` does. No time belongs to a ratio sigma / alpha between 0 and that of
    t -> 0: `time_at_ratio` refuses it.

    Args:
        schedule: called as schedule(t) -> (alpha, sigma), with a float64 tensor of times.
        t_min: smallest time of interior points of grids.

    Raises:
        TypeError: for something that is not callable.
        ValueError: if alpha(0) is not 1, or sigma / alpha does not rise.
    """

    source: Callable[[Tensor], tuple[Tensor, Tensor]]
    _floor: float

    def __init__(
        self, schedule: Callable[[Tensor], tuple[Tensor, Tensor]], t_min: float = 1e-3
    ) -> None:
        if not callable(schedule):
            raise TypeError(
                f"schedule={schedule!r}: expected an azula schedule, t -> (alpha, sigma); "
                "give denoiser.schedule"
            )
        alpha, sigma = (
            float(s) for s in schedule(torch.zeros((), dtype=torch.float64, device="cpu"))
        )
        object.__setattr__(self, "source", schedule)
        object.__setattr__(self, "_floor", sigma / alpha)
        super().__init__(self._source_alpha, self._source_sigma, t_min=t_min)

    def __repr__(self) -> str:
        return f"AzulaSchedule({brief(self.source)}, t_min={self.t_min!r})"

    def regular_at(self, t: float) -> bool:
        """False at t = 0, where sigma jumps."""
        return t > 0 and super().regular_at(t)

    def _source_alpha(self, t: Tensor) -> Tensor:
        return self.source(t)[0]

    def _source_sigma(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, self.source(t)[1], 0.0)

    def _d_sigma(self, t: Any, xp: Any) -> Any:
        slope = super()._d_sigma(t, xp)
        return xp.where(t > 0, slope, math.inf) if self._floor else slope

    def _ratio_floor(self) -> float:
        return self._floor
