"""Predictor-corrector schedulers of score SDEs (Song et al. 2021, arXiv 2011.13456)."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.schedulers.deprecated.scheduling_sde_vp import (
    ScoreSdeVpScheduler as PeerScoreSdeVpScheduler,
)
from diffusers.schedulers.scheduling_sde_ve import SdeVeOutput
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.integrations.diffusers.base import FusedScheduler, normal, not_started
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.fused_step import Update, noise, out, x
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import SchedulerRun


class ScoreSdeVeScheduler(FusedScheduler, diffusers.ScoreSdeVeScheduler):
    """Reverse diffusion and Langevin steps of the variance-exploding SDE (Algorithms 2 and 4)."""

    _grids = ("discrete_sigmas",)
    _noise_dtype = "sample"

    def step_pred(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SdeVeOutput | tuple[Tensor, ...]:
        """x_prev = x + g^2 score + g z, g^2 = sigma_t^2 - sigma_prev^2; and its mean."""
        if self.timesteps is None:
            raise not_started("timesteps", "step_pred")
        if isinstance(timestep, Tensor) and timestep.numel() > 1:  # a time for each sample
            peer: Any = super()
            result: Any = peer.step_pred(model_output, timestep, sample, generator, return_dict)
            return result
        run = self._current()
        # As the peer rounds: in float32, towards zero.
        position = int(np.float32(run.value(timestep)) * np.float32(len(run.host_timesteps) - 1))
        results = self._advance(run, position, sample, model_output, generator, position + 1)
        return packed(SdeVeOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        sigmas = run.table("discrete_sigmas")
        variance = sigmas[key] ** 2 - (sigmas[key - 1] ** 2 if key > 0 else 0.0)
        mean = x + variance * out
        return Update(mean + math.sqrt(variance) * noise, returned=mean, draws=True)

    def step_correct(
        self,
        model_output: Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """x + e score + sqrt(2 e) z, e = 2 (snr |z| / |score|)^2 with norms averaged."""
        if self.timesteps is None:
            raise not_started("timesteps", "step_correct")
        # diffusers makes this noise in float32 on the host, where the generator's is not elsewhere.
        z = normal(sample.shape, generator, torch.device("cpu"), torch.float32).to(sample.device)
        norms = [t.flatten(1).float().norm(dim=1).mean().double() for t in (z, model_output)]
        size = 2 * (self.config.snr * norms[0] / norms[1]) ** 2
        # The step size goes into the table on its device; reading it here would wait for that.
        table = torch.stack([torch.ones_like(size), size, (2 * size).sqrt()]).reshape(1, 1, 3)
        dtype = torch.promote_types(sample.dtype, z.dtype)
        results = kernels.combine([sample, model_output, z], table, [dtype])
        return packed(SchedulerOutput, tuple(results)) if return_dict else tuple(results)


class ScoreSdeVpScheduler(FusedScheduler, PeerScoreSdeVpScheduler):
    """Euler-Maruyama on the reverse variance-preserving SDE, backwards in N even steps."""

    def step_pred(
        self, score: Tensor, x: Tensor, t: Tensor, generator: Generators = None
    ) -> tuple[Tensor, Tensor]:
        """x + (beta x / 2 + beta s) / N + sqrt(beta / N) z and its mean, s = -score / std(t).

        t: one time, or [B].
        """
        if self.timesteps is None:
            raise not_started("timesteps", "step_pred")
        low, high, steps = self.config.beta_min, self.config.beta_max, len(self.timesteps)
        # Rounded as the peer rounds: at small times 1 - exp(..) loses digits in float32.
        mean_log = -0.25 * t**2 * (high - low) - 0.5 * t * low
        std = torch.sqrt(1 - torch.exp(2 * mean_log)).reshape(-1).double()
        beta = low + t.reshape(-1).double() * (high - low)
        ones = torch.ones_like(beta)
        mean = torch.stack([ones + 0.5 * beta / steps, -beta / (steps * std), 0 * ones], dim=1)
        step = torch.cat([mean[:, :2], (beta / steps).sqrt()[:, None]], dim=1)
        table = torch.stack([step, mean], dim=1)
        z = normal(x.shape, generator, x.device, x.dtype)
        dtype = torch.promote_types(x.dtype, score.dtype)
        prev, prev_mean = kernels.combine([x, score, z], table.to(x.device), [dtype, dtype])
        return prev, prev_mean
