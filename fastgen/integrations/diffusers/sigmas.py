"""Schedulers that integrate dx / d sigma on the variance-exploding process x / alpha."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_consistency_models import CMStochasticIterativeSchedulerOutput
from diffusers.schedulers.scheduling_edm_euler import EDMEulerSchedulerOutput
from diffusers.schedulers.scheduling_euler_ancestral_discrete import (
    EulerAncestralDiscreteSchedulerOutput,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteSchedulerOutput
from torch import Tensor

from fastgen.common.transforms import transforming
from fastgen.integrations.diffusers.base import FusedScheduler
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.fused_step import (
    SAMPLE,
    Transform,
    Update,
    data,
    noise,
    out,
    r,
    x,
)
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import ResultDtype, SchedulerRun
from fastgen.plans.forms import Form, Value


class OnSigmas(FusedScheduler):
    """The position in the grid is counted, and the data prediction is at x = x0 + sigma eps."""

    # Whether a whole number is a timestep, where the grid has it.
    _takes_whole_numbers: ClassVar[bool] = False

    def _check_timestep(self, timestep: float | Tensor) -> None:
        """diffusers refuses whole numbers in some: they would be taken for positions."""
        if self._takes_whole_numbers:
            return
        if isinstance(timestep, int) or (
            self._step_index is None
            and isinstance(timestep, Tensor)
            and not timestep.is_floating_point()
        ):
            raise ValueError(
                f"timestep={timestep!r}: {type(self).__name__}.step() takes one of "
                "scheduler.timesteps, not its position"
            )

    def _start(self, timestep: float | Tensor) -> int:
        """The position of the first step, by a short way for loops over scheduler.timesteps."""
        run = self._run
        if (
            run is not None
            and self._begin_index is None
            and timestep.__class__ is Tensor
            and timestep.dtype is run.floating
            and timestep.is_cpu
        ):
            found = run.positions.get(timestep.item())
            if found is not None:
                return found[1]
        return self._place(timestep)[1]

    def _raw(self, sigma: float, kinds: tuple[str, ...] = ("epsilon", "v_prediction")) -> Form:
        """The data prediction of the model output at x = x0 + sigma eps."""
        config: Any = self.__dict__["_internal_dict"]
        kind = config["prediction_type"]
        if kind not in kinds:
            error = NotImplementedError if kind == "sample" else ValueError
            name = type(self).__name__
            raise error(f"prediction_type={kind!r}: {name} knows {', '.join(kinds)}")
        if kind == "epsilon":
            return x - sigma * out
        if kind == "v_prediction":
            return x / (sigma**2 + 1) - sigma / math.sqrt(sigma**2 + 1) * out
        return out


class Scaled(OnSigmas):
    """The network's input is x / sqrt(sigma^2 + 1)."""

    def _input_scale(self, sigma: float) -> float:
        return math.sqrt(sigma**2 + 1)

    def _input_sigma(self, run: SchedulerRun, k: int) -> float:
        return run.host_sigmas[k]

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """The network's input for the state ``sample``."""
        run = self._current()
        sigma = self._input_sigma(run, self._at(timestep))
        self.is_scale_input_called = True
        return sample / self._input_scale(sigma)


# In the key of a step whose data prediction the caller gives in place of an output.
DATA_GIVEN = "data given"
ALL = ("epsilon", "v_prediction", "sample", "original_sample")


class Churned(OnSigmas):
    """Euler's step, after raising sigma with noise if asked to (Karras et al. 2022, Algorithm 2).

    sigma_hat = sigma (1 + min(s_churn / steps, sqrt 2 - 1)) within [s_tmin, s_tmax], else sigma;
    x_hat = x + s_noise sqrt(sigma_hat^2 - sigma^2) z; x_prev = x_hat + (sigma_next - sigma_hat)
    (x_hat - x0) / sigma_hat.
    """

    _result_dtype: ClassVar[ResultDtype] = "output"

    def _denoised(self, at: Form, sigma: float, sigma_hat: float) -> Form:
        """The data prediction at the state ``at``."""
        raise NotImplementedError

    def _churned_key(
        self,
        run: SchedulerRun,
        k: int,
        s_churn: float,
        s_tmin: float,
        s_tmax: float,
        s_noise: float,
    ) -> Any:
        sigmas = run.host_sigmas
        gamma = 0.0
        if s_churn > 0 and s_tmin <= sigmas[k] <= s_tmax:
            gamma = min(s_churn / (len(sigmas) - 1), 2**0.5 - 1)
        return (k, gamma, s_noise) if gamma > 0 else k

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, gamma, s_noise = key if isinstance(key, tuple) else (key, 0.0, 1.0)
        sigma, following = run.sigmas_at(k)
        sigma_hat = sigma * (1 + gamma)
        at = x + s_noise * math.sqrt(sigma_hat**2 - sigma**2) * noise
        raw = self._denoised(at, sigma, sigma_hat)
        step = at + (following - sigma_hat) / sigma_hat * (at - data)
        return Update(step, raw, data, draws=gamma > 0)


class EulerDiscreteScheduler(Churned, Scaled, diffusers.EulerDiscreteScheduler):
    """Euler's method in sigma, with churn (Karras et al. 2022, arXiv 2206.00364, Algorithm 2)."""

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
    ) -> EulerDiscreteSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample and the data prediction; as diffusers' step."""
        own = self.__dict__
        k, results = own["_step_index"], None
        if k is None:
            k = self._start(timestep)
        if s_churn == 0 and not transforming():
            results = own["_cpp_step"](own, k, timestep, sample, model_output)
        if results is None:
            run, k = self._place(timestep)
            key = self._churned_key(run, k, s_churn, s_tmin, s_tmax, s_noise)
            results = self._advance(run, key, sample, model_output, generator, k + 1)
        own["_step_index"] = k + 1
        return packed(EulerDiscreteSchedulerOutput, results) if return_dict else results

    def _denoised(self, at: Form, sigma: float, sigma_hat: float) -> Form:
        raw: Form = self._raw(sigma_hat if self.config.prediction_type == "epsilon" else sigma, ALL)
        weight = float(raw.terms.get(Value(SAMPLE), 0.0))
        return raw + weight * (at - x)


class EDMEulerScheduler(Churned, Scaled, diffusers.EDMEulerScheduler):
    """Euler's method on EDM's preconditioned network (Karras et al. 2022, arXiv 2206.00364)."""

    def _input_scale(self, sigma: float) -> float:
        return math.sqrt(sigma**2 + self.config.sigma_data**2)

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
        pred_original_sample: Tensor | None = None,
    ) -> EDMEulerSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample and the data prediction; as diffusers' step."""
        run, k = self._place(timestep)
        key = self._churned_key(run, k, s_churn, s_tmin, s_tmax, s_noise)
        if pred_original_sample is not None:
            key, model_output = (key, DATA_GIVEN), pred_original_sample.to(model_output.dtype)
        results = self._advance(run, key, sample, model_output, generator, k + 1)
        self._step_index = k + 1
        if pred_original_sample is not None:
            results = (results[0], pred_original_sample)
        return packed(EDMEulerSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        if isinstance(key, tuple) and key[-1] == DATA_GIVEN:
            update = super()._update(run, key[0])
            return Update(update.sample, out, data, draws=update.draws)
        return super()._update(run, key)

    def _denoised(self, at: Form, sigma: float, sigma_hat: float) -> Form:
        return edm_denoised(self, at, sigma_hat)


def edm_denoised(scheduler: Any, at: Form, sigma: float) -> Form:
    """EDM's preconditioning, x0 = c_skip x + c_out F (Karras et al. 2022, table 1)."""
    width: float = scheduler.config.sigma_data
    kind: str = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        name = type(scheduler).__name__
        raise ValueError(f"prediction_type={kind!r}: {name} knows epsilon, v_prediction")
    weight = sigma * width / math.sqrt(sigma**2 + width**2)
    skip = width**2 / (sigma**2 + width**2)
    return skip * at + (weight if kind == "epsilon" else -weight) * out


class EulerAncestralDiscreteScheduler(Scaled, diffusers.EulerAncestralDiscreteScheduler):
    """Euler's step to sigma_down, then noise of sigma_up (k-diffusion's sample_euler_ancestral).

    sigma_up^2 = sigma_t^2 (sigma_s^2 - sigma_t^2) / sigma_s^2, sigma_down = sigma_t^2 / sigma_s.
    """

    _result_dtype: ClassVar[ResultDtype] = "output"

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> EulerAncestralDiscreteSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample and the data prediction; as diffusers' step."""
        run, k = self._place(timestep)
        results = self._advance(run, k, sample, model_output, generator, k + 1)
        self._step_index = k + 1
        return packed(EulerAncestralDiscreteSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        sigma, to = run.sigmas_at(key)
        up = to * math.sqrt(sigma**2 - to**2) / sigma
        down = to**2 / sigma  # the root of to^2 - up^2, without the cancellation
        step = x + (down - sigma) / sigma * (x - data) + up * noise
        return Update(step, self._raw(sigma), data, draws=True)


class LMSDiscreteScheduler(Scaled, diffusers.LMSDiscreteScheduler):
    """Adams-Bashforth in sigma with variable steps (k-diffusion's sample_lms).

    x_prev = x + sum_j w_j d_j, d = (x - x0) / sigma, w_j the integral of the j-th Lagrange
    polynomial through the last sigmas.
    """

    _takes_whole_numbers = True

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        order: int = 4,
        return_dict: bool = True,
    ) -> LMSDiscreteSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample and the data prediction; as diffusers' step."""
        run, k = self._place(timestep)
        if not 1 <= order <= 8:
            raise ValueError(f"order={order}: expected a whole number from 1 to 8")
        key = (k, order, min(len(run.registers), order - 1))
        results = self._advance(run, key, sample, model_output)
        self._step_index = k + 1
        return packed(LMSDiscreteSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        k, order, held = key
        sigma, _ = run.sigmas_at(k)
        raw = self._raw(sigma, ALL[:3])
        slopes = [(x - data) / sigma, *r[:held]]
        # Started in the middle of the grid there are more weights than slopes. As in the peer, the
        # first weights of the higher order are then taken.
        weights = adams_weights(tuple(run.host_sigmas[: k + 2]), min(k + 1, order))
        step = sum((w * d for w, d in zip(weights, slopes, strict=False)), x)
        return Update(step, raw, data, keep=dict(enumerate(slopes[: order - 1])))


@functools.lru_cache(maxsize=4096)
def adams_weights(sigmas: tuple[float, ...], order: int) -> list[float]:
    """Integrals from sigmas[-2] to sigmas[-1] of the Lagrange polynomials, newest node first.

    A node that comes again has no weight: its value is that of the newer one.
    """
    start, end = sigmas[-2:]
    nodes = np.array(sigmas[-2 : -2 - order : -1])
    u, w = np.polynomial.legendre.leggauss(4)
    at = start + (end - start) * (1 + u) / 2
    result = []
    for j in range(order):
        if nodes[j] in nodes[:j]:
            result.append(0.0)
            continue
        others = np.array([n for n in dict.fromkeys(nodes.tolist()) if n != nodes[j]])
        values = np.prod((at[:, None] - others) / (nodes[j] - others), axis=1)
        result.append(float((end - start) / 2 * (w @ values)))
    return result


class CMStochasticIterativeScheduler(Scaled, diffusers.CMStochasticIterativeScheduler):
    """Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, Algorithm 1).

    x_prev = f(x) + s_noise sqrt(sigma_next^2 - sigma_min^2) z, f = c_skip x + c_out F clipped.
    """

    def _input_scale(self, sigma: float) -> float:
        return math.sqrt(sigma**2 + self.config.sigma_data**2)

    def _transform(self) -> Transform:
        return (-1.0, 1.0) if self.config.clip_denoised else None

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> CMStochasticIterativeSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step."""
        run, k = self._place(timestep)
        results = self._advance(run, k, sample, model_output, generator, k + 1)
        self._step_index = k + 1
        return packed(CMStochasticIterativeSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        sigmas, config = run.host_sigmas, self.config
        sigma, low, width = sigmas[key], config.sigma_min, config.sigma_data
        following = sigmas[key + 1 if key + 1 < config.num_train_timesteps else -1]
        following = min(max(following, low), config.sigma_max)
        skip = width**2 / ((sigma - low) ** 2 + width**2)
        weight = (sigma - low) * width / math.sqrt(sigma**2 + width**2)
        several = len(run.host_timesteps) > 1
        scale = config.s_noise * math.sqrt(max(following**2 - low**2, 0.0)) if several else 0.0
        return Update(data + scale * noise, skip * x + weight * out, draws=several)
