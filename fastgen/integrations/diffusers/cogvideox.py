"""CogVideoX's schedulers: deterministic and stochastic exponential steps on the chain."""

from __future__ import annotations

import math
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_ddim_cogvideox import (
    DDIMSchedulerOutput as CogVideoXDDIMOutput,
)
from diffusers.schedulers.scheduling_dpm_cogvideox import DDIMSchedulerOutput as CogVideoXDPMOutput
from torch import Tensor

from fastgen.integrations.diffusers.base import normal, not_started
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.ddpm import Chain
from fastgen.integrations.diffusers.fused_step import (
    FIRST_REGISTER,
    Transform,
    Update,
    data,
    noise,
    r,
    x,
)
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import SchedulerRun


class Strides(Chain):
    """Steps of num_train_timesteps // steps whose data predictions are taken as they are."""

    config: Any

    def _transform(self) -> Transform:
        return None

    def _stride(self, run: SchedulerRun, t: float, steps: int) -> tuple[float, float]:
        """alpha_bar at t and a stride before it."""
        previous = t - self.config.num_train_timesteps // steps
        there = self._alpha_bar(previous) if previous >= 0 else self._final(run)
        return self._alpha_bar(t), there


class CogVideoXDDIMScheduler(Strides, diffusers.CogVideoXDDIMScheduler):
    """DDIM (Song et al. 2021, arXiv 2010.02502): x_prev = a x + (sqrt(ab_prev) - a sqrt(ab)) x0.

    a = sqrt((1 - ab_prev) / (1 - ab)). Like diffusers' step it knows no eta and no clipping.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> CogVideoXDDIMOutput | tuple[Tensor, ...]:
        """The previous sample and the data prediction; as diffusers' step."""
        steps = self.num_inference_steps
        if steps is None:
            raise not_started("num_inference_steps", "step")
        run = self._current()
        results = self._advance(run, (run.value(timestep), steps), sample, model_output)
        return packed(CogVideoXDDIMOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        here, there = self._stride(run, *key)
        kept = math.sqrt((1 - there) / (1 - here))
        weight = math.sqrt(there) - math.sqrt(here) * kept
        return Update(kept * x + weight * data, self._raw(here), data)


class CogVideoXDPMScheduler(Strides, diffusers.CogVideoXDPMScheduler):
    """DPM-Solver++(2M) SDE on the chain (arXiv 2211.01095), its history kept by the caller.

    x_prev = sqrt((1 - ab_prev) / (1 - ab)) e^-h x + sqrt(ab_prev) (1 - e^-2h) D +
    sqrt(1 - ab_prev) sqrt(1 - e^-2h) z, D = x0 + (x0 - older x0) h / (2 h_last), h the step's
    increase of log(alpha / sigma); D = x0 in the first step and the last.
    """

    _noise_dtype = "sample"

    def step(
        self,
        model_output: Tensor,
        old_pred_original_sample: Tensor | None,
        timestep: int | Tensor,
        timestep_back: int | Tensor | None,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = False,
    ) -> CogVideoXDPMOutput | tuple[Tensor, ...]:
        """The previous sample and the data prediction; as diffusers' step."""
        steps = self.num_inference_steps
        if steps is None:
            raise not_started("num_inference_steps", "step")
        run = self._current()
        t = run.value(timestep)
        back = None
        run.registers.clear()
        if old_pred_original_sample is not None and t >= self.config.num_train_timesteps // steps:
            if timestep_back is None:
                raise ValueError("timestep_back=None: give the timestep before `timestep`")
            back = run.value(timestep_back)
            run.registers[FIRST_REGISTER] = (old_pred_original_sample, False)
            if run.contract is None:  # diffusers draws for a step of first order, too
                normal(sample.shape, generator, sample.device, sample.dtype)
        key = (t, back, steps)
        results = self._advance(run, key, sample, model_output, generator, int(t) + 1)
        return packed(CogVideoXDPMOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        t, back, steps = key
        here, there = self._stride(run, t, steps)
        h = _log_snr(there) - _log_snr(here)
        values = data
        if back is not None:
            older = _log_snr(here) - _log_snr(self._alpha_bar(back))
            values = values + h / (2 * older) * (data - r[0])
        kept = math.sqrt((1 - there) / (1 - here)) * math.exp(-h)
        gained = -math.expm1(-2 * h)
        mean = kept * x + math.sqrt(there) * gained * values
        deviation = math.sqrt(1 - there) * math.sqrt(gained)
        return Update(mean + deviation * noise, self._raw(here), data, draws=True)


def _log_snr(alpha_bar: float) -> float:
    """log(alpha / sigma), infinite at the ends."""
    if 0 < alpha_bar < 1:
        return 0.5 * (math.log(alpha_bar) - math.log1p(-alpha_bar))
    return math.inf if alpha_bar else -math.inf
