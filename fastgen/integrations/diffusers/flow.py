"""Schedulers of flow matching: dx / d sigma is the model's output, x = (1 - sigma) x0 + sigma z."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import diffusers
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteSchedulerOutput,
)
from diffusers.schedulers.scheduling_flow_match_heun_discrete import (
    FlowMatchHeunDiscreteSchedulerOutput,
)
from torch import Tensor

from fastgen.common.transforms import transforming
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.fused_step import Update, noise, out, r, x
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import ResultDtype, SchedulerRun
from fastgen.integrations.diffusers.sigmas import Churned, OnSigmas

START, SLOPE = 0, 1  # registers: the state and the slope of the first call


class FlowMatchEulerDiscreteScheduler(OnSigmas, diffusers.FlowMatchEulerDiscreteScheduler):
    """Euler's method for the flow (Esser et al. 2024, arXiv 2403.03206), or its stochastic form.

    x_prev = x + (sigma_next - sigma) v; stochastic_sampling: (1 - sigma_next) (x - sigma v) +
    sigma_next z.
    """

    _result_dtype: ClassVar[ResultDtype] = "output"
    _noise_dtype = torch.float32

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: Generators = None,
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step, which ignores s_churn and its companions."""
        own = self.__dict__
        k = own["_step_index"]
        if k is None:
            k = self._start(timestep)
        if per_token_timesteps is None and not transforming():
            results = own["_cpp_step"](own, k, timestep, sample, model_output)
            if results is not None:
                own["_step_index"] = k + 1
                if return_dict:
                    return packed(FlowMatchEulerDiscreteSchedulerOutput, results)
                return results
        run, k = self._place(timestep)
        if per_token_timesteps is not None:  # every token has a step size: nothing to tabulate
            peer: Any = super()
            result: Any = peer.step(
                model_output,
                timestep,
                sample,
                generator=generator,
                per_token_timesteps=per_token_timesteps,
                return_dict=return_dict,
            )
            return result
        results = self._advance(run, k, sample, model_output, generator, k + 1)
        self._step_index = k + 1
        return packed(FlowMatchEulerDiscreteSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        sigma, following = run.sigmas_at(key)
        if not self.config.stochastic_sampling:
            return Update(x + (following - sigma) * out)
        mean = (1 - following) * (x - sigma * out)
        return Update(mean + following * noise, draws=True)


class FlowMatchHeunDiscreteScheduler(Churned, diffusers.FlowMatchHeunDiscreteScheduler):
    """Heun's method for the flow in two calls: x + (sigma_next - sigma) (v + v') / 2."""

    dt: Any

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> FlowMatchHeunDiscreteSchedulerOutput | tuple[Tensor, ...]:
        """The next state; as diffusers' step."""
        run, k = self._place(timestep)
        first = self.dt is None
        start = k if first else k - 1
        churn = self._churned_key(run, start, s_churn, s_tmin, s_tmax, s_noise)
        results = self._advance(run, (first, churn), sample, model_output, generator, k + 1)
        # What diffusers' own property looks at; the values themselves are in the registers.
        self.dt = run.host_sigmas[k + 1] - run.host_sigmas[k] if first else None
        self._step_index = k + 1
        return packed(FlowMatchHeunDiscreteSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        first, churn = key
        start, gamma, s_noise = churn if isinstance(churn, tuple) else (churn, 0.0, 1.0)
        sigma, to = run.sigmas_at(start)
        sigma_hat = sigma * (1 + gamma)
        draws = gamma > 0
        if first:
            at = x + s_noise * math.sqrt(sigma_hat**2 - sigma**2) * noise
            slope = sigma / sigma_hat * out
            keep = {START: at, SLOPE: slope}
            return Update(at + (to - sigma_hat) * slope, keep=keep, draws=draws)
        slope = (r[SLOPE] + out) / 2
        return Update(r[START] + (to - sigma_hat) * slope, draws=draws)
