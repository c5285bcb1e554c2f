"""Second-order schedulers in sigma that take two `step` calls for one step."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_dpmsolver_sde import (
    BrownianTreeNoiseSampler,
    DPMSolverSDESchedulerOutput,
)
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_k_dpm_2_ancestral_discrete import (
    KDPM2AncestralDiscreteSchedulerOutput,
)
from diffusers.schedulers.scheduling_k_dpm_2_discrete import KDPM2DiscreteSchedulerOutput
from torch import Tensor

from fastgen.common.transforms import transforming
from fastgen.integrations.common.noise import fresh_seed
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.fused_step import Transform, Update, data, noise, r, x
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import SchedulerRun
from fastgen.integrations.diffusers.sigmas import ALL, Scaled
from fastgen.noise.brownian import brownian

START, SLOPE = 0, 1  # registers: the state and the slope of the first call


class TwoCalls(Scaled):
    """Schedulers whose steps take two calls: one at the start, one at the end or in the middle.

    ``dt`` (Heun's) or ``sample`` (the others') is None before a first call. diffusers' own
    properties look at these attributes too; the values of the first call are in the registers.
    """

    _takes_whole_numbers = True

    dt: Any
    sample: Any
    noise_sampler: Any


class HeunDiscreteScheduler(TwoCalls, diffusers.HeunDiscreteScheduler):
    """Heun's method in sigma (Karras et al. 2022, arXiv 2206.00364, Algorithm 1).

    First call: Euler's step with d = (x - x0) / sigma. Second call, at its end: from the same
    start with (d + d') / 2.
    """

    def _transform(self) -> Transform:
        bound = self.config.clip_sample_range
        return (-bound, bound) if self.config.clip_sample else None

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> HeunDiscreteSchedulerOutput | tuple[Tensor, ...]:
        """The next state and the data prediction; as diffusers' step."""
        own = self.__dict__
        k, first = own["_step_index"], own["dt"] is None
        if k is None:
            k = self._start(timestep)
        seen = transforming()
        results = (
            None if seen else own["_cpp_step"](own, (k, first), timestep, sample, model_output)
        )
        if results is None:
            run, k = self._place(timestep)
            results = self._advance(run, (k, first), sample, model_output)
        sigmas = own["_run"].host_sigmas
        own["dt"] = sigmas[k + 1] - sigmas[k] if first else None
        own["_step_index"] = k + 1
        return packed(HeunDiscreteSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, first = key
        sigma, to = run.sigmas_at(k if first else k - 1)
        if first:
            slope = (x - data) / sigma
            keep = {START: x, SLOPE: slope}
            return Update(x + (to - sigma) * slope, self._raw(sigma, ALL[:3]), data, keep)
        slope = (r[SLOPE] + (x - data) / to) / 2
        return Update(r[START] + (to - sigma) * slope, self._raw(to, ALL[:3]), data)


class KDPM2DiscreteScheduler(TwoCalls, diffusers.KDPM2DiscreteScheduler):
    """The midpoint rule in log sigma (Karras et al. 2022; k-diffusion's sample_dpm_2).

    First call: Euler's step to the middle. Second call, there: from the start with its slope.
    """

    _grids = ("sigmas_interpol",)

    def _input_sigma(self, run: SchedulerRun, k: int) -> float:
        return run.host_sigmas[k] if self.sample is None else run.table("sigmas_interpol")[k]

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> KDPM2DiscreteSchedulerOutput | tuple[Tensor, ...]:
        """The next state and the data prediction; as diffusers' step."""
        own = self.__dict__
        k, first = own["_step_index"], own["sample"] is None
        if k is None:
            k = self._start(timestep)
        seen = transforming()
        results = (
            None if seen else own["_cpp_step"](own, (k, first), timestep, sample, model_output)
        )
        if results is None:
            run, k = self._place(timestep)
            results = self._advance(run, (k, first), sample, model_output)
        own["sample"] = sample if first else None
        own["_step_index"] = k + 1
        return packed(KDPM2DiscreteSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, first = key
        start = k if first else k - 1
        sigma, to = run.sigmas_at(start)
        middle = run.table("sigmas_interpol")[start + 1]
        if first:
            step = x + (middle - sigma) / sigma * (x - data)
            return Update(step, self._raw(sigma), data, {START: x})
        step = r[START] + (to - sigma) / middle * (x - data)
        return Update(step, self._raw(middle), data)


class KDPM2AncestralDiscreteScheduler(TwoCalls, diffusers.KDPM2AncestralDiscreteScheduler):
    """`KDPM2DiscreteScheduler` to sigma_down, then noise of sigma_up (sample_dpm_2_ancestral)."""

    _grids = ("sigmas_interpol", "sigmas_up", "sigmas_down")

    def _input_sigma(self, run: SchedulerRun, k: int) -> float:
        if self.sample is None:
            return run.host_sigmas[k]
        return run.table("sigmas_interpol")[k - 1]

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> KDPM2AncestralDiscreteSchedulerOutput | tuple[Tensor, ...]:
        """The next state and the data prediction; as diffusers' step."""
        own = self.__dict__
        k, first, results = own["_step_index"], own["sample"] is None, None
        if first and k is not None and not transforming():  # the second call draws noise
            results = own["_cpp_step"](own, (k, first), timestep, sample, model_output)
        if results is None:
            run, k = self._place(timestep)
            results = self._advance(run, (k, first), sample, model_output, generator, k + 1)
        own["sample"] = sample if first else None
        own["_step_index"] = k + 1
        return packed(KDPM2AncestralDiscreteSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, first = key
        start = k if first else k - 1
        sigma, _ = run.sigmas_at(start)
        middle = run.table("sigmas_interpol")[start]
        if first:
            step = x + (middle - sigma) / sigma * (x - data)
            return Update(step, self._raw(sigma), data, {START: x})
        up, down = (run.table(name)[start] for name in ("sigmas_up", "sigmas_down"))
        step = r[START] + (down - sigma) / middle * (x - data) + up * noise
        return Update(step, self._raw(middle), data, draws=True)


class TreeNoiseSampler:
    """Unit noise of a step: the Brownian tree's increment over [sigma_to, sigma], scaled.

    The motion runs in sigma / high, so that its times lie in [0, 1]. ``low`` is not needed; the
    arguments are those of diffusers' `BrownianTreeNoiseSampler`.
    """

    def __init__(
        self, like: Tensor, low: float, high: float, seed: int | list[int] | None = None
    ) -> None:
        self.like, self.high = like, high
        self.seed = fresh_seed() if seed is None else seed
        self.ids = [0] * like.shape[0] if isinstance(seed, list) else None

    def __call__(self, sigma: Tensor, to: Tensor) -> Tensor:
        """The increment, of unit variance."""
        ends = [min(float(to) / self.high, 1.0), min(float(sigma) / self.high, 1.0)]
        shape, device = self.like.shape, self.like.device
        w = brownian(shape, ends, seed=self.seed, sample_ids=self.ids, device=device)
        return ((w[1] - w[0]) / math.sqrt(ends[1] - ends[0])).to(torch.float32)


class DPMSolverSDEScheduler(TwoCalls, diffusers.DPMSolverSDEScheduler):
    """DPM-Solver++ SDE in two calls on a Brownian path (k-diffusion's sample_dpmpp_sde, r = 1/2).

    Each call goes from the start to sigma_to, the first to the middle, the second to the end:
    x = (sigma_down / sigma) x + (1 - sigma_down / sigma) x0 + s_noise sigma_up W. W is the path's
    increment over sqrt(sigma - sigma_to); sigma_up and sigma_down are those of
    `EulerAncestralDiscreteScheduler`. With noise="torch" the path is torchsde's, with "contract"
    `fastgen.brownian`; noise_sampler_seed is the seed of both.
    """

    _noise_in_kernel = False

    def _input_sigma(self, run: SchedulerRun, k: int) -> float:
        return run.host_sigmas[k] if self.sample is None else self._middle(run, k - 1)

    def _middle(self, run: SchedulerRun, k: int) -> float:
        return math.sqrt(run.host_sigmas[k] * run.host_sigmas[k + 1])

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        s_noise: float = 1.0,
    ) -> DPMSolverSDESchedulerOutput | tuple[Tensor, ...]:
        """The next state and the data prediction; as diffusers' step."""
        run, k = self._place(timestep)
        first = self.sample is None
        start = k if first else k - 1
        sigma, end = run.sigmas_at(start)
        last = end == 0
        z = None
        if self.noise_sampler is None:
            positive = [s for s in run.host_sigmas if s > 0]
            path: Any = BrownianTreeNoiseSampler if run.contract is None else TreeNoiseSampler
            seed = (
                self.noise_sampler_seed if self.noise_sampler_seed is not None else self._noise[1]
            )
            self.noise_sampler = path(sample, min(positive), max(positive), seed)
        if not last:
            # torchsde's path is a function of the times' bits, so they are rounded as the peer's.
            t, t_end = (-torch.tensor(s, device="cpu").log() for s in (sigma, end))
            t_to = t + (t_end - t) * 0.5 if first else t_end
            z = self.noise_sampler((-t).exp(), (-t_to).exp())
        key = (k, first, s_noise)
        results = self._advance(run, key, sample, model_output, None, k + 1, z)
        if not last:
            self.sample = sample if first else None
            self.mid_point_sigma = (
                torch.tensor(self._middle(run, start), device="cpu") if first else None
            )
        self._step_index = k + 1
        return packed(DPMSolverSDESchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, first, s_noise = key
        start = k if first else k - 1
        sigma, end = run.sigmas_at(start)
        if end == 0:
            raw = self._raw(sigma if first else 0.0)
            return Update(x + (end - sigma) / sigma * (x - data), raw, data)
        middle = self._middle(run, start)
        to = middle if first else end
        up = min(to, to * math.sqrt(sigma**2 - to**2) / sigma)
        down = math.sqrt(to**2 - up**2)
        at = x if first else r[START]
        step = down / sigma * at + (1 - down / sigma) * data + s_noise * up * noise
        keep = {START: x} if first else {}
        return Update(step, self._raw(sigma if first else middle), data, keep, draws=True)
