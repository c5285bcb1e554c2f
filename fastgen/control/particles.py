"""The weights of particles on their way, by the rewards of their data predictions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.common.checks import check_number
from fastgen.control.resampling import effective, systematic, uniform

POTENTIALS = ("difference", "max", "sum")
# Ids of particles: the point in the high bits, the sample's id times P and the particle below.
LOW_BITS, HIGH_BITS = 36, 12

Reward = Callable[[Tensor], Tensor]
Scale = float | Callable[[float], float]


class Particles:
    """The weights of B systems of P particles on their way."""

    def __init__(
        self,
        reward: Reward,
        potential: str,
        scale: Scale,
        least: float,
        seeds: Tensor,
        ids: Tensor,
        count: int,
    ) -> None:
        self._reward, self._potential, self._scale = reward, potential, scale
        self._least, self._seeds, self._systems = least, seeds, ids
        self._count, shape = count, (len(ids), count)
        self._place = torch.arange(count, device=ids.device).expand(shape)
        self.ids = ids[:, None] * count + self._place
        zeros = torch.zeros(shape, dtype=torch.float64, device=ids.device)
        self._log_weights, self._log_evidence = zeros, zeros[:, 0]
        # The sum of the log-factors so far, and the level that the potential remembers.
        self._given = zeros
        self._level = torch.full_like(zeros, -math.inf) if potential == "max" else zeros
        self.times: dict[int, float] = {}
        self._effective: list[Tensor] = []
        self._ancestors: list[Tensor] = []
        self._ids = [self.ids]

    def choose(self, k: int, data: Tensor) -> tuple[Tensor, Tensor] | None:
        """Weigh the particles by their data predictions, and draw those anew that need it."""
        draw = len(self._ancestors)
        _, level = self._level_of(data, self.times[k])
        if self._potential == "difference":
            factor = level - self._given
        else:
            maximum = self._potential == "max"
            self._level = level.maximum(self._level) if maximum else level + self._level
            factor = self._level
        self._given = self._given + factor
        self._log_weights = self._log_weights + factor
        number = effective(self._log_weights)
        self._effective.append(number)
        anew = (number < self._least)[:, None]
        if not bool(anew.any()):
            self._ancestors.append(self._place)
            self._ids.append(self.ids)
            return None
        drawn = systematic(self._log_weights, uniform(self._seeds, self._systems, draw))
        parents = torch.where(anew, drawn, self._place)
        mean = self._mean()
        self._log_evidence = torch.where(anew[:, 0], self._log_evidence + mean, self._log_evidence)
        self._log_weights = torch.where(anew, 0.0, self._log_weights)
        self._given = self._given.gather(1, parents)
        self._level = self._level.gather(1, parents)
        own = self._systems[:, None] * self._count + self._place
        self.ids = torch.where(anew, own + ((draw + 1) << LOW_BITS), self.ids)
        self._ancestors.append(parents)
        self._ids.append(self.ids)
        first = self._count * torch.arange(len(parents), device=parents.device)
        return (first[:, None] + parents).flatten(), self.ids.flatten()

    def finish(self, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rewards, log-weights, log of the evidence, and the particles drawn, of the samples."""
        rewards, level = self._level_of(x, t)
        self._log_weights = self._log_weights + level - self._given
        u = uniform(self._seeds, self._systems, len(self._ancestors))
        bounds = self._log_weights.softmax(1).cumsum(1)
        chosen = torch.searchsorted(bounds, u[:, None] * bounds[:, -1:])[:, 0]
        chosen = chosen.clamp_max(self._count - 1)
        return rewards, self._log_weights, self._log_evidence + self._mean(), chosen

    def history(self) -> tuple[Tensor, Tensor, Tensor]:
        """The effective numbers, the ancestors and the ids of all points."""
        if not self._ancestors:
            none = self._place[None][:0]
            return none.sum(2).double(), none, torch.stack(self._ids)
        return torch.stack(self._effective), torch.stack(self._ancestors), torch.stack(self._ids)

    def _mean(self) -> Tensor:
        return self._log_weights.logsumexp(1) - math.log(self._count)

    def _level_of(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """The rewards [B, P], and those times the scale in float64."""
        found, rows = self._reward(x), len(x)
        if not isinstance(found, Tensor) or found.shape != (rows,) or found.is_complex():
            what = f"shape {list(found.shape)}" if isinstance(found, Tensor) else repr(found)
            raise ValueError(
                f"reward: expected a number for each of {rows} samples, a tensor [{rows}], got "
                f"{what}"
            )
        rewards = found.detach().reshape(self._place.shape)
        wrong = int((~rewards.double().isfinite()).sum())
        if wrong:
            raise ValueError(
                f"reward: {wrong} of {rows} numbers are not finite at t={t:.6g}, where it sees "
                "data predictions as the network makes them; give a large negative number for what "
                "must not be"
            )
        scale = check_number("scale", self._scale(t) if callable(self._scale) else self._scale)
        if not math.isfinite(scale):
            raise ValueError(f"scale={scale!r}: expected a finite number, at t={t:.6g}")
        return rewards, scale * rewards.to(self._place.device, torch.float64)
