"""Ancestral steps of single pipelines: unCLIP, Wuerstchen, RePaint, the consistency decoder."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import diffusers
import torch
from diffusers.schedulers.scheduling_consistency_decoder import (
    ConsistencyDecoderScheduler as PeerConsistencyDecoderScheduler,
)
from diffusers.schedulers.scheduling_consistency_decoder import ConsistencyDecoderSchedulerOutput
from diffusers.schedulers.scheduling_ddpm_wuerstchen import DDPMWuerstchenSchedulerOutput
from diffusers.schedulers.scheduling_repaint import RePaintSchedulerOutput
from diffusers.schedulers.scheduling_unclip import UnCLIPSchedulerOutput
from torch import Tensor

from fastgen import kernels
from fastgen.integrations.diffusers.base import FusedScheduler, normal, not_started
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.ddpm import Chain
from fastgen.integrations.diffusers.fused_step import Transform, Update, data, noise, out, x
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import ResultDtype, SchedulerRun


class UnCLIPScheduler(Chain, diffusers.UnCLIPScheduler):
    """Ancestral sampling between any two indices of the chain (Ho et al. 2020, arXiv 2006.11239).

    The weights are those of `DDPMScheduler`; the caller may say where a step ends.
    """

    _grids = ("one", "alphas", "betas")
    _kinds = ("epsilon", "sample")

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        prev_timestep: int | Tensor | None = None,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> UnCLIPSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample and the data prediction; as diffusers' step."""
        run = self._current()
        t = run.value(timestep)
        previous = t - 1 if prev_timestep is None else run.value(prev_timestep)
        learned, output, z = None, model_output, None
        if self.variance_type == "learned_range" and (model_output.shape[1] == 2 * sample.shape[1]):
            output, learned = (part.contiguous() for part in model_output.chunk(2, dim=1))
        if learned is not None and t > 0:
            if run.contract is not None:
                raise ValueError(
                    "noise='contract' with variance_type='learned_range': the deviation is a "
                    "tensor there; use noise='torch'"
                )
            _, _, _, beta, small = self._variances(run, t, previous)
            fraction = (learned + 1) / 2
            logs = fraction * math.log(beta) + (1 - fraction) * math.log(small)
            z = torch.exp(0.5 * logs) * normal(output.shape, generator, output.device, output.dtype)
        key = (t, previous, self.variance_type, learned is not None)
        results = self._advance(run, key, sample, output, generator, int(t) + 1, z)
        return packed(UnCLIPSchedulerOutput, results) if return_dict else results

    def _variances(
        self, run: SchedulerRun, t: float, previous: float
    ) -> tuple[float, float, float, float, float]:
        """ab_t, ab_prev, alpha, beta, and the posterior's variance, which is kept above 1e-20."""
        here = self._alpha_bar(t)
        there = self._alpha_bar(previous) if previous >= 0 else self._final(run)
        alpha, beta = here / there, 1 - here / there
        if previous == t - 1:
            alpha, beta = run.table("alphas")[int(t)], run.table("betas")[int(t)]
        return here, there, alpha, beta, max((1 - there) / (1 - here) * beta, 1e-20)

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        t, previous, kind, learned = key
        here, there, alpha, beta, small = self._variances(run, t, previous)
        first = math.sqrt(there) * beta / (1 - here)
        mean = first * data + math.sqrt(alpha) * (1 - there) / (1 - here) * x
        raw = self._raw(here)
        if t <= 0:
            return Update(mean, raw, data)
        if not learned and kind != "fixed_small_log":
            raise ValueError(
                f"variance_type={kind!r}: expected 'fixed_small_log', or 'learned_range' and a "
                "model output with twice the channels of the sample"
            )
        return Update(mean + (1.0 if learned else math.sqrt(small)) * noise, raw, data, draws=True)


class DDPMWuerstchenScheduler(FusedScheduler, diffusers.DDPMWuerstchenScheduler):
    """DDPM on a cosine schedule in continuous time (Pernias et al. 2023, arXiv 2306.00637).

    x_prev = (x - (1 - a) eps / sqrt(1 - ab)) / sqrt(a) + sqrt((1 - a)(1 - ab_prev) / (1 - ab)) z,
    a = ab / ab_prev; no noise in the step to time 0.
    """

    _result_dtype: ClassVar[ResultDtype] = "output"

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> DDPMWuerstchenSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step, which ends all rows where the first does."""
        run = self._current()
        rows = timestep.reshape(-1)
        if rows.numel() > 1 and rows.stride(0) and bool((rows != rows[0]).any()):
            peer: Any = super()
            result: Any = peer.step(model_output, timestep, sample, generator, return_dict)
            return result
        t = run.value(rows[0])
        key = (t, min(range(len(run.host_timesteps)), key=lambda i: abs(run.host_timesteps[i] - t)))
        results = self._advance(run, key, sample, model_output, generator, key[1] + 1)
        return packed(DDPMWuerstchenSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        t, k = key
        if k + 1 >= len(run.host_timesteps):
            raise IndexError(f"timestep={t}: the grid's last time has no step")
        previous = run.host_timesteps[k + 1]
        times = torch.tensor([t, previous], device="cpu")
        here, there = self._alpha_cumprod(times, torch.device("cpu")).tolist()
        ratio = here / there
        mean = (x - (1 - ratio) / math.sqrt(1 - here) * out) / math.sqrt(ratio)
        deviation = math.sqrt((1 - ratio) * (1 - there) / (1 - here)) if previous else 0.0
        return Update(mean + deviation * noise, draws=True)


class RePaintScheduler(Chain, diffusers.RePaintScheduler):
    """DDIM's step where the mask is 0, the noised image where it is 1 (arXiv 2201.09865, eq. 8).

    Both parts have the same noise, as in diffusers; `undo_step` is diffusers' own.
    """

    _kinds = ("epsilon",)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        original_image: Tensor,
        mask: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> RePaintSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample and the data prediction; as diffusers' step."""
        steps = self.num_inference_steps
        if steps is None:
            raise not_started("num_inference_steps", "step")
        run = self._current()
        if run.contract is not None:
            raise ValueError("noise='contract': the mask multiplies the noise; use noise='torch'")
        t = run.value(timestep)
        z = normal(model_output.shape, generator, model_output.device, model_output.dtype)
        unknown, predicted = self._advance(run, (t, steps), sample, model_output, z=z)
        there = self._there(run, t, steps)
        table = torch.tensor(
            [[[math.sqrt(there), math.sqrt(1 - there)]]], dtype=torch.float64, device="cpu"
        )
        (known,) = kernels.combine(
            [original_image, z],
            table.to(z.device),
            [torch.promote_types(original_image.dtype, z.dtype)],
        )
        results = (mask * known + (1.0 - mask) * unknown, predicted)
        return packed(RePaintSchedulerOutput, results) if return_dict else results

    def _transform(self) -> Transform:
        return (-1.0, 1.0) if self.config.clip_sample else None

    def _raw(self, alpha_bar: float) -> Any:
        return (x - math.sqrt(1 - alpha_bar) * out) / math.sqrt(alpha_bar)

    def _there(self, run: SchedulerRun, t: float, steps: int) -> float:
        previous = t - self.config.num_train_timesteps // steps
        return self._alpha_bar(previous) if previous >= 0 else self._final(run)

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        t, steps = key
        here, there = self._alpha_bar(t), self._there(run, t, steps)
        variance = (1 - there) / (1 - here) * (1 - here / there)
        deviation = self.eta * math.sqrt(variance)
        direction = math.sqrt(max(1 - there - deviation**2, 0.0))
        mean = math.sqrt(there) * data + direction * out
        added = deviation * noise if t > 0 and self.eta > 0 else 0.0 * noise
        return Update(mean + added, self._raw(here), data, draws=True)


class ConsistencyDecoderScheduler(FusedScheduler, PeerConsistencyDecoderScheduler):
    """Two steps of a consistency model: x0 = c_out F + c_skip x, then noise to the next index."""

    _grids = ("c_out", "c_skip", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod")

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> ConsistencyDecoderSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step."""
        run = self._current()
        k = run.index(timestep)
        if k is None:
            k = self._missing(run, timestep)
        results = self._advance(run, k, sample, model_output, generator, k + 1)
        return packed(ConsistencyDecoderSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        at = int(run.host_timesteps[key])
        denoised = run.table("c_out")[at] * out + run.table("c_skip")[at] * x
        if key == len(run.host_timesteps) - 1:
            return Update(denoised)
        to = int(run.host_timesteps[key + 1])
        alpha, sigma = (run.table(name)[to] for name in self._grids[2:])
        return Update(alpha * denoised + sigma * noise, draws=True)
