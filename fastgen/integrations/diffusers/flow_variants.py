"""Schedulers of flow matching for single families of networks: LCM, LTX, flow maps, SCM, H3."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import diffusers
import torch
from diffusers.schedulers.scheduling_flow_map_euler_discrete import (
    FlowMapEulerDiscreteSchedulerOutput,
)
from diffusers.schedulers.scheduling_flow_match_lcm import FlowMatchLCMSchedulerOutput
from diffusers.schedulers.scheduling_ltx_euler_ancestral_rf import (
    LTXEulerAncestralRFSchedulerOutput,
)
from diffusers.schedulers.scheduling_minimax_h3 import MiniMaxH3SchedulerOutput
from diffusers.schedulers.scheduling_scm import SCMSchedulerOutput
from torch import Tensor

from fastgen.integrations.diffusers.base import FusedScheduler, not_started
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.fused_step import Update, data, noise, out, x
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import ResultDtype, SchedulerRun
from fastgen.integrations.diffusers.sigmas import OnSigmas

# diffusers' guard of a division, and the sigma below which it calls a step the last.
TINY, LAST = 1e-12, 1e-8
# How far a time may be from the grid's.
NEAR = 1e-3


class FlowMatchLCMScheduler(OnSigmas, diffusers.FlowMatchLCMScheduler):
    """Consistency sampling on a flow: x_prev = (1 - sigma_next) (x - sigma v) + sigma_next z.

    With scale factors, where states grow between steps, a step is diffusers' own.
    """

    _result_dtype: ClassVar[ResultDtype] = "output"
    _noise_dtype = torch.float32

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> FlowMatchLCMSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step."""
        if self._scale_factors and self._upscale_mode:
            peer: Any = super()
            result: Any = peer.step(model_output, timestep, sample, generator, return_dict)
            return result
        run, k = self._place(timestep)
        results = self._advance(run, k, sample, model_output, generator, k + 1)
        self._step_index = k + 1
        return packed(FlowMatchLCMSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        sigma, following = run.sigmas_at(key)
        return Update((1 - following) * (x - sigma * out) + following * noise, draws=True)


class LTXEulerAncestralRFScheduler(OnSigmas, diffusers.LTXEulerAncestralRFScheduler):
    """Euler's ancestral step on a rectified flow (LTX-Video; k-diffusion's euler_ancestral_RF).

    sigma_down = sigma_next (1 + eta (sigma_next / sigma - 1)); the flow goes to sigma_down, then
    noise takes it back to sigma_next: the mean is scaled by (1 - sigma_next) / (1 - sigma_down).
    """

    _result_dtype: ClassVar[ResultDtype] = "sample"
    _noise_dtype = torch.float32

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> LTXEulerAncestralRFSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step."""
        if self.timesteps is None:
            raise not_started("timesteps", "step")
        run, k = self._place(timestep)
        last = len(run.host_sigmas) - 1
        if k >= last:  # diffusers stays where it is
            results: tuple[Tensor, ...] = (sample,)
        else:
            key = (k, self.config.eta, self.config.s_noise)
            results = self._advance(run, key, sample, model_output, generator, k + 1)
        self._step_index = min(k + 1, last)
        return packed(LTXEulerAncestralRFSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, eta, s_noise = key
        sigma, following = run.sigmas_at(k)
        denoised = x - sigma * out
        if abs(following) < LAST:
            return Update(denoised)
        down = following * (1 + (following / sigma - 1) * eta)
        step = down / sigma * x + (1 - down / sigma) * denoised
        if not (eta > 0 and s_noise > 0):
            return Update(step)
        ahead, below = 1 - following, 1 - down
        variance = following**2 - down**2 * ahead**2 / (below**2 + TINY)
        step = ahead / (below + TINY) * step + math.sqrt(max(variance, 0.0)) * s_noise * noise
        return Update(step, draws=True)


class FlowMapEulerDiscreteScheduler(FusedScheduler, diffusers.FlowMapEulerDiscreteScheduler):
    """A flow map's jump: x_r = x - (sigma_t - sigma_r) u, u the mean velocity from t to r.

    r is the grid's next time or, with r_timestep, any. Times for each sample: diffusers' own step.
    """

    _result_dtype: ClassVar[ResultDtype] = "output"

    def index_for_timestep(  # type: ignore[override]
        self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None
    ) -> int | None:
        """Position of a timestep in the grid; None where none is within 1e-3."""
        if self.timesteps is None:
            return None
        run = self._current()
        return self._near(
            run, run.value(timestep.reshape(-1)[0]) if isinstance(timestep, Tensor) else timestep
        )

    def _near(self, run: SchedulerRun, t: float) -> int | None:
        distances = [abs(own - t) for own in run.host_timesteps]
        k = distances.index(min(distances))
        return None if distances[k] > NEAR else k

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        r_timestep: float | Tensor | None = None,
        return_dict: bool = True,
    ) -> FlowMapEulerDiscreteSchedulerOutput | tuple[Tensor, ...]:
        """The state at r; as diffusers' step."""
        if self.timesteps is None:
            raise not_started("timesteps", "step")
        times = [timestep, r_timestep]
        if any(isinstance(t, Tensor) and t.numel() > 1 for t in times):
            peer: Any = super()
            result: Any = peer.step(model_output, timestep, sample, r_timestep, return_dict)
            return result
        run = self._current()
        start = run.value(timestep)
        k = self._near(run, start)
        if self._step_index is None:
            self._step_index = (k or 0) if self._begin_index is None else self._begin_index
        if r_timestep is None:
            if k is None:
                raise ValueError(
                    f"timestep={start}: is not in scheduler.timesteps; give r_timestep too"
                )
            end = run.host_sigmas[k + 1]
        else:
            end = self._sigma(run, run.value(r_timestep))
        key = (self._sigma(run, start), end)
        results = self._advance(run, key, sample, model_output)
        self._step_index += 1
        return packed(FlowMapEulerDiscreteSchedulerOutput, results) if return_dict else results

    def _sigma(self, run: SchedulerRun, t: float) -> float:
        k = self._near(run, t)
        return t / self.config.num_train_timesteps if k is None else run.host_sigmas[k]

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        start, end = key
        return Update(x + (end - start) * out)


class MiniMaxH3Scheduler(OnSigmas, diffusers.MiniMaxH3Scheduler):
    """Euler's step on a flow whose time runs from 0 (noise) to 1: x + (1 - s'/s) (1 - t) v."""

    _result_dtype: ClassVar[ResultDtype] = "sample"

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> MiniMaxH3SchedulerOutput | tuple[Tensor, ...]:
        """The next state; as diffusers' step."""
        run, k = self._place(timestep)
        results = self._advance(run, (k, run.value(timestep, k)), sample, model_output)
        self._step_index = k + 1
        return packed(MiniMaxH3SchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, t = key
        sigma, following = run.sigmas_at(k)
        return Update(x + (1 - following / sigma) * (1 - t) * out)


class SCMScheduler(FusedScheduler, diffusers.SCMScheduler):
    """Consistency sampling in TrigFlow (Lu and Song 2024, arXiv 2410.11081).

    x0 = cos(s) x - sin(s) F, x_prev = cos(t) x0 + sin(t) sigma_data z, angles s and t.
    """

    _noise_dtype = torch.float32

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SCMSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample and the data prediction; as diffusers' step."""
        if self.num_inference_steps is None:
            raise not_started("num_inference_steps", "step")
        run, k = self._place(timestep)
        results = self._advance(run, k, sample, model_output, generator, k + 1)
        self._step_index = k + 1
        return packed(SCMSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        if self.config.prediction_type != "trigflow":
            raise ValueError(
                f"prediction_type={self.config.prediction_type!r}: SCMScheduler knows trigflow"
            )
        if key + 1 >= len(run.host_timesteps):
            raise IndexError(
                f"step_index={key}: the grid has {len(run.host_timesteps) - 1} steps; call "
                "set_timesteps before another run"
            )
        s, t = run.host_timesteps[key], run.host_timesteps[key + 1]
        raw = math.cos(s) * x - math.sin(s) * out
        step = math.cos(t) * data + math.sin(t) * self.config.sigma_data * noise
        return Update(step, raw, data, draws=True)
