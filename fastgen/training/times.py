"""Distributions of training times: quantile tables from which the `bridge` kernel draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.common.checks import check_choice, check_positive
from fastgen.common.display import Unquoted, displayed
from fastgen.common.kept import kept
from fastgen.common.transforms import check_untraced
from fastgen.kernels import Clock, Sampling
from fastgen.schedules import Schedule
from fastgen.timesteps.quantiles import quantile as beta_quantile

CELLS = 4096
SAMPLINGS = {kind.name.lower(): kind for kind in Sampling}


def check_times(name: str, t: Tensor, rows: int) -> Tensor:
    """Times [rows] in float64, or an error that names the argument.

    On a GPU, where looking at them would take a synchronisation, their range is not checked.

    Raises:
        TypeError: for something else than a tensor.
        ValueError: for another dtype or shape, a time outside [0, 1], or one with a tangent.
    """
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}={t!r}: expected a tensor [{rows}] of times")
    if t.shape != (rows,) or not t.is_floating_point():
        raise ValueError(f"{name}: expected floating [{rows}], got {t.dtype} {list(t.shape)}")
    check_untraced("this call", "give times without derivatives", **{name: t})
    t = t.detach().to(torch.float64)
    if t.device.type == "cpu":
        outside = ~((t >= 0) & (t <= 1))
        if outside.any():
            raise ValueError(f"{name}: expected times in [0, 1], got {t[outside][0].item()}")
    return t


@displayed
class Times:
    """A distribution on [low, high] within [0, 1], given by the quantiles Q(k / K).

    Between quantiles t is uniform, so that its density is a histogram whose K bins hold equal
    shares: `density` is exact for what is drawn.

    Args:
        quantiles: at least two times in [0, 1], never falling.
        sampling: "independent"; "stratified", one time in each of B equal shares of the
            probability (Kingma et al. 2021, arXiv 2107.00630, do so with one common offset); or
            "antithetic", pairs at u and 1 - u.
    """

    def __init__(self, quantiles: Sequence[float] | NDArray[np.float64], sampling: str) -> None:
        q = np.array(quantiles, dtype=np.float64)
        if q.ndim != 1 or len(q) < 2 or not (np.diff(q) >= 0).all() or not 0 <= q[0] < q[-1] <= 1:
            raise ValueError(
                f"quantiles: expected at least two times in [0, 1], never falling, got {quantiles}"
            )
        check_choice("sampling", sampling, SAMPLINGS)
        self.quantiles, self.sampling = q, sampling
        self._clocks: dict[torch.device, Clock] = {}

    def _facts(self) -> dict[str, object]:
        ends = Unquoted(f"{self.quantiles[0]:.6g} to {self.quantiles[-1]:.6g}")
        cells = len(self.quantiles) - 1
        return {"times": ends, "cells": cells, "sampling": self.sampling}

    def clock(self, device: torch.device) -> Clock:
        """What the kernel draws from, on a device."""
        return kept(
            self._clocks,
            device,
            lambda: Clock(torch.from_numpy(self.quantiles).to(device), SAMPLINGS[self.sampling]),
        )

    def density(self, t: Tensor) -> Tensor:
        """The probability density at t [B], float64; inf where a bin has no width."""
        q = self.clock(t.device).quantiles
        cells = q.shape[0] - 1
        k = (torch.searchsorted(q, t.to(torch.float64), right=True) - 1).clamp(0, cells - 1)
        inside = (t >= q[0]) & (t <= q[-1])
        return torch.where(inside, 1 / (cells * (q[k + 1] - q[k])), 0.0)


def uniform(low: float = 0.0, high: float = 1.0, *, sampling: str = "independent") -> Times:
    """Uniform times in [low, high]."""
    return Times([low, high], sampling)


def logit_normal(
    mean: float = 0.0, std: float = 1.0, *, sampling: str = "independent", cells: int = CELLS
) -> Times:
    """t = 1 / (1 + exp(-n)), n ~ N(mean, std^2): Esser et al. 2024 (arXiv 2403.03206)."""
    check_positive("std", std)
    normal = NormalDist(mean, std)
    inner = np.array([normal.inv_cdf(k / cells) for k in range(1, cells)])
    return Times(np.concatenate([[0.0], 1 / (1 + np.exp(-inner)), [1.0]]), sampling)


def beta(a: float, b: float, *, sampling: str = "independent", cells: int = CELLS) -> Times:
    """t ~ Beta(a, b), such as Beta(1, 1.5) of pi0 (Black et al. 2024, arXiv 2410.24164)."""
    check_positive("a", a)
    check_positive("b", b)
    return Times(beta_quantile(np.linspace(0, 1, cells + 1), a, b), sampling)


def importance(
    density: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    low: float = 0.0,
    high: float = 1.0,
    *,
    sampling: str = "independent",
    cells: int = CELLS,
) -> Times:
    """Times of a density that is known up to its scale, by its cumulative sum over midpoints.

    density: function of an array of times in (low, high) with finite positive values, such as
    g^2 / sigma^2 of a schedule (`likelihood`).
    """
    edges = np.linspace(low, high, 16 * cells + 1)
    for _ in range(4):  # each time with the points moved to where the mass is
        middle = (edges[1:] + edges[:-1]) / 2
        values = np.asarray(density(middle), dtype=np.float64)
        if values.shape != middle.shape or not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"density: expected finite positive values on ({low}, {high})")
        mass = np.concatenate([[0.0], np.cumsum(values * np.diff(edges))])
        edges = np.interp(np.linspace(0, mass[-1], 16 * cells + 1), mass, edges)
    return Times(edges[::16], sampling)


def likelihood(
    schedule: Schedule, *, low: float = 1e-5, sampling: str = "independent", data_at: int = 1
) -> Times:
    """Times with density g(t)^2 / sigma(t)^2 of a schedule, which the likelihood weighs by.

    Song et al. 2021, "Maximum likelihood training of score-based diffusion models" (arXiv
    2101.09258): with them the weighted loss needs no weights. low: the schedule's smallest time,
    below which the density is not integrable.
    """

    def density(t: NDArray[np.float64]) -> NDArray[np.float64]:
        s = 1 - t if data_at == 1 else t
        return schedule.diffusion_squared(s) / schedule.sigma(s) ** 2

    ends = (0.0, 1 - low) if data_at == 1 else (low, 1.0)
    return importance(density, *ends, sampling=sampling)
