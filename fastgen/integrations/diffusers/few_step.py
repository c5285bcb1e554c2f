"""Few-step schedulers on the discrete chain, for distilled networks: LCM and TCD."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_lcm import LCMSchedulerOutput
from diffusers.schedulers.scheduling_tcd import TCDSchedulerOutput
from torch import Tensor

from fastgen.integrations.diffusers.base import not_started
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.ddpm import Chain
from fastgen.integrations.diffusers.fused_step import Transform, Update, data, noise, x
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import SchedulerRun


class Counted(Chain):
    """Few-step schedulers: the position is counted, and the next index is the grid's next."""

    _noise_dtype = "promoted"

    def _counted(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators,
        *options: float,
    ) -> tuple[Tensor, ...]:
        own = self.__dict__
        steps = own["num_inference_steps"]
        if steps is None:
            raise not_started("num_inference_steps", "step")
        run = self._current()
        k = self._at(timestep)
        key = (k, run.value(timestep, k), steps, *options)
        results = self._advance(run, key, sample, model_output, generator, k + 1)
        self._step_index = k + 1
        return results

    def _next(self, run: SchedulerRun, k: int, last: float) -> float:
        return run.host_timesteps[k + 1] if k + 1 < len(run.host_timesteps) else last


class LCMScheduler(Counted, diffusers.LCMScheduler):
    """Latent consistency sampling (Luo et al. 2023, arXiv 2310.04378, Algorithm 3).

    f = c_out x0 + c_skip x, x_prev = sqrt(ab_prev) f + sqrt(1 - ab_prev) z, without noise in the
    last step; c_skip = s^2 / (u^2 + s^2), c_out = u / sqrt(u^2 + s^2), s = 1/2, u = t times
    timestep_scaling.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> LCMSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample and the denoised one; as diffusers' step."""
        results = self._counted(model_output, timestep, sample, generator)
        return packed(LCMSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, t, steps = key
        previous = self._next(run, k, t)
        there = self._alpha_bar(previous) if previous >= 0 else self._final(run)
        u, width = t * self.config.timestep_scaling, 0.5
        skip, weight = width**2 / (u**2 + width**2), u / math.sqrt(u**2 + width**2)
        denoised = weight * data + skip * x
        raw = self._raw(self._alpha_bar(t))
        if k == steps - 1:
            return Update(denoised, raw, denoised)
        step = math.sqrt(there) * denoised + math.sqrt(1 - there) * noise
        return Update(step, raw, denoised, draws=True)


class TCDScheduler(Counted, diffusers.TCDScheduler):
    """Trajectory consistency sampling (Zheng et al. 2024, arXiv 2402.19159, strategic sampling).

    y = sqrt(ab_s) x0 + sqrt(1 - ab_s) eps at s = (1 - eta) t_prev, then
    x_prev = sqrt(ab_prev / ab_s) y + sqrt(1 - ab_prev / ab_s) z, without noise in the last step.
    As in diffusers, clip_sample and thresholding have no effect.
    """

    def _transform(self) -> Transform:
        return None

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.3,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> TCDSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample and the one at s; as diffusers' step."""
        if not 0 <= eta <= 1:
            raise AssertionError(f"eta={eta}: expected 0 <= eta <= 1")
        results = self._counted(model_output, timestep, sample, generator, eta)
        return packed(TCDSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, t, steps, eta = key
        previous = self._next(run, k, 0)
        s = float(
            torch.floor((1 - eta) * torch.tensor(previous, device="cpu"))
        )  # floor of the peer's float32
        here, at = self._alpha_bar(t), self._alpha_bar(s)
        there = self._alpha_bar(previous) if previous >= 0 else self._final(run)
        raw, eps = self._raw(here), self._epsilon(here)
        noised = math.sqrt(at) * data + math.sqrt(1 - at) * eps
        if eta == 0 or k == steps - 1:
            return Update(noised, raw, noised)
        step = math.sqrt(there / at) * noised + math.sqrt(1 - there / at) * noise
        return Update(step, raw, noised, draws=True)
