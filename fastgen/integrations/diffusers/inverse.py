"""Schedulers that run backwards, from data to noise: DDIM's and DPM-Solver's inversions."""

from __future__ import annotations

import math
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_ddim_inverse import DDIMSchedulerOutput
from torch import Tensor

from fastgen.integrations.diffusers.base import not_started
from fastgen.integrations.diffusers.ddpm import Chain
from fastgen.integrations.diffusers.exponential import DPMSolver
from fastgen.integrations.diffusers.fused_step import Update, data
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import SchedulerRun


class DDIMInverseScheduler(Chain, diffusers.DDIMInverseScheduler):
    """DDIM run backwards, from data to noise (Song et al. 2021, arXiv 2010.02502, section 4.3)."""

    _grids = ("initial_alpha_cumprod",)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, ...]:
        """The noisier sample and the data prediction; as diffusers' step."""
        run = self._current()
        steps = self.num_inference_steps
        if steps is None:
            raise not_started("num_inference_steps", "step")
        key = (run.value(timestep), steps)
        results = self._advance(run, key, sample, model_output)
        return packed(DDIMSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        there, steps = key
        length = self.config.num_train_timesteps
        here = min(there - length // steps, length - 1)
        ab = self._alpha_bar(here) if here >= 0 else self._final(run)
        ab_next = self._alpha_bar(there)
        raw, eps = self._raw(ab), self._epsilon(ab)
        return Update(math.sqrt(ab_next) * data + math.sqrt(1 - ab_next) * eps, raw, data)


class DPMSolverMultistepInverseScheduler(DPMSolver, diffusers.DPMSolverMultistepInverseScheduler):
    """`DPMSolverMultistepScheduler` run backwards along its grid, without noise."""

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        if self._algorithm().startswith("sde"):
            raise ValueError(
                f"algorithm_type={self._algorithm()!r}: the noise of a step backwards would have a "
                "negative variance (diffusers returns NaN); use 'dpmsolver++' or 'dpmsolver'"
            )
        return super()._update(run, key)
