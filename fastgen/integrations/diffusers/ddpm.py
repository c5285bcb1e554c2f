"""Schedulers on the discrete chain: a step from training index t to an earlier one."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import diffusers
import torch
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from torch import Tensor

from fastgen.common.checks import check_number
from fastgen.common.transforms import transforming
from fastgen.integrations.diffusers.base import FusedScheduler, normal, not_started, prediction
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.fused_step import Transform, Update, data, noise, out, x
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.runs import SchedulerRun, index_of
from fastgen.integrations.diffusers.tables import watch
from fastgen.plans.forms import Form

KINDS = ("epsilon", "sample", "v_prediction")


class Chain(FusedScheduler):
    """Alphas of the chain as host numbers, and the options that DDPM, DDIM and LCM share."""

    _grids: ClassVar[tuple[str, ...]] = ("final_alpha_cumprod",)
    _training: ClassVar[tuple[str, ...]] = ("alphas_cumprod",)
    _kinds: ClassVar[tuple[str, ...]] = KINDS
    # The chain as host numbers, and whether the table has changed since they were read.
    _alphas: tuple[Any, list[float]] = (None, [])

    def __init_subclass__(cls) -> None:
        """diffusers moves its table to a device in these: that makes it no other table."""
        super().__init_subclass__()
        for name in ("add_noise", "get_velocity"):
            if hasattr(cls, name):
                setattr(cls, name, _keeping_the_chain(getattr(cls, name)))

    def _chain(self) -> list[float]:
        """alpha_bar of the whole chain."""
        own, (unchanged, values) = self.__dict__, self._alphas
        if unchanged is None or not unchanged(own):
            values = own["alphas_cumprod"].tolist()
            self._alphas = (watch(own, self._training), values)
        return values

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "_alphas"}

    def _alpha_bar(self, t: float) -> float:
        """alpha_bar at a training index."""
        chain = self._chain()
        if not -len(chain) <= t < len(chain):
            raise ValueError(f"timestep={t:g}: expected one of the chain's {len(chain)} steps")
        return chain[int(t)]

    def _final(self, run: SchedulerRun) -> float:
        """alpha_bar beyond the first index: at the data."""
        return run.number(self._grids[0])

    def _transform(self) -> Transform:
        config: Any = self.__dict__["_internal_dict"]
        if config.get("thresholding"):
            return "threshold"
        bound = config["clip_sample_range"]
        return (-bound, bound) if config["clip_sample"] else None

    def _raw(self, alpha_bar: float) -> Form:
        config: Any = self.__dict__["_internal_dict"]
        return prediction(
            config["prediction_type"],
            math.sqrt(alpha_bar),
            math.sqrt(1 - alpha_bar),
            self._kinds,
            type(self).__name__,
        )

    def _epsilon(self, alpha_bar: float, *, clipped: bool = False) -> Form:
        """The noise prediction; ``clipped``: of the data prediction after its transform."""
        config: Any = self.__dict__["_internal_dict"]
        kind, a, s = config["prediction_type"], math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        if clipped:
            return (x - a * data) / s
        if kind == "sample":
            return (x - a * out) / s
        return out if kind == "epsilon" else a * out + s * x


def _keeping_the_chain(original: Any) -> Any:
    @functools.wraps(original)
    def method(self: Chain, *args: Any, **kwargs: Any) -> Any:
        values, own = self._chain(), self.__dict__
        before = own["alphas_cumprod"]
        result = original(self, *args, **kwargs)
        if own["alphas_cumprod"] is not before:
            self._alphas = (watch(own, self._training), values)
        return result

    return method


class Ancestral(Chain):
    """DDPM's steps."""

    variance_type: Any
    custom_timesteps: Any
    num_inference_steps: Any

    _grids = ("one",)  # alpha_bar beyond the first index

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample and the data prediction; as diffusers' step."""
        run = self._current()
        t = run.value(timestep)
        learned, output = None, model_output
        if self.variance_type in ("learned", "learned_range") and (
            model_output.shape[1] == 2 * sample.shape[1]
        ):
            output, learned = (part.contiguous() for part in model_output.chunk(2, dim=1))
        z = None
        if learned is not None and t > 0:
            if run.contract is not None:
                raise ValueError(
                    f"noise='contract' with variance_type={self.variance_type!r}: the deviation is "
                    "a tensor there; use noise='torch'"
                )
            z = normal(output.shape, generator, output.device, output.dtype)
            z = self._deviation(run, t, learned) * z
        key = (t, self.variance_type, learned is not None)
        results = self._advance(run, key, sample, output, generator, int(t) + 1, z)
        return packed(DDPMSchedulerOutput, results) if return_dict else results

    def _previous(self, run: SchedulerRun, t: float) -> float:
        """The index before t in the grid; -1 after the last."""
        if not (self.custom_timesteps or self.num_inference_steps):
            return t - 1
        found = run.positions.get(t)
        at = (self._missing(run, t) if found is None else found[0]) + 1
        return run.host_timesteps[at] if at < len(run.host_timesteps) else -1

    def _variances(self, run: SchedulerRun, t: float) -> tuple[float, float, float, float]:
        """ab_t, ab_prev, beta, and the posterior's variance, which is kept above 1e-20."""
        previous = self._previous(run, t)
        here = self._alpha_bar(t)
        there = self._alpha_bar(previous) if previous >= 0 else self._final(run)
        beta = 1 - here / there
        return here, there, beta, max((1 - there) / (1 - here) * beta, 1e-20)

    def _deviation(self, run: SchedulerRun, t: float, learned: Tensor) -> Tensor:
        """sqrt(var) where the network predicts it, or where between its bounds it lies."""
        if self.variance_type == "learned":
            return learned**0.5
        _, _, beta, small = self._variances(run, t)
        fraction = (learned + 1) / 2
        return torch.exp(0.5 * (fraction * math.log(beta) + (1 - fraction) * math.log(small)))

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        t, kind, learned = key
        here, there, beta, small = self._variances(run, t)
        mean = (
            math.sqrt(there) * beta / (1 - here) * data
            + math.sqrt(here / there) * (1 - there) / (1 - here) * x
        )
        raw = self._raw(here)
        if t <= 0:
            return Update(mean, raw, data)
        deviation = {
            "fixed_small": math.sqrt(small),
            "fixed_small_log": math.sqrt(small),
            "fixed_large": math.sqrt(beta),
            # The peer takes the root of log(beta), which is negative for beta < 1.
            "fixed_large_log": math.nan if beta < 1 else 0.0,
        }
        scale = 1.0 if learned else deviation.get(kind)
        if scale is None or math.isnan(scale):
            raise ValueError(
                f"variance_type={kind!r}: "
                + (
                    "diffusers takes the root of log(beta) < 0 there, which is NaN; use "
                    "'fixed_large'"
                    if kind in deviation
                    else "expected a model output with twice the channels of the sample"
                    if kind in ("learned", "learned_range")
                    else f"expected one of {', '.join(deviation)}, learned, learned_range"
                )
            )
        return Update(mean + scale * noise, raw, data, draws=True)


class DDPMScheduler(Ancestral, diffusers.DDPMScheduler):
    """Ancestral sampling of the chain (Ho et al. 2020, arXiv 2006.11239, Algorithm 2).

    x_prev = c_0 x0 + c_t x_t + sqrt(var) z with the posterior's weights
    c_0 = sqrt(ab_prev) beta / (1 - ab), c_t = sqrt(1 - beta) (1 - ab_prev) / (1 - ab), where
    1 - beta = ab / ab_prev. Learned variances as Nichol and Dhariwal 2021, arXiv 2102.09672.
    """


class DDPMParallelScheduler(Ancestral, diffusers.DDPMParallelScheduler):
    """`DDPMScheduler` for ParaDiGMS pipelines; `batch_step_no_noise` is diffusers' own."""


class Implicit(Chain):
    """DDIM's steps."""

    config: Any
    num_inference_steps: Any

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
    ) -> DDIMSchedulerOutput | tuple[Tensor, ...]:
        """The previous sample and the data prediction; as diffusers' step."""
        own = self.__dict__
        steps = own["num_inference_steps"]
        if steps is None:
            raise not_started("num_inference_steps", "step")
        if variance_noise is not None and generator is not None and eta > 0:
            raise ValueError("variance_noise and generator: give one of the two")
        results = None
        if type(eta) is not float:
            eta = check_number("eta", eta)
        index = index_of(timestep)
        if index is not None and eta == 0 and variance_noise is None and not transforming():
            key: Any = (index, eta, use_clipped_model_output, False, steps)
            results = own["_cpp_step"](own, key, None, sample, model_output)
        if results is None:
            run = self._current()
            t = run.value(timestep)
            key = (t, eta, use_clipped_model_output, variance_noise is not None, steps)
            results = self._advance(
                run, key, sample, model_output, generator, int(t) + 1, variance_noise
            )
        return packed(DDIMSchedulerOutput, results) if return_dict else results

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        t, eta, clipped, _, steps = key
        previous = t - self.config.num_train_timesteps // steps
        here = self._alpha_bar(t)
        there = self._alpha_bar(previous) if previous >= 0 else self._final(run)
        variance = (1 - there) / (1 - here) * (1 - here / there)
        deviation = eta * math.sqrt(variance) if eta else 0.0
        direction = math.sqrt(max(1 - there - deviation**2, 0.0))
        raw = self._raw(here)
        mean = math.sqrt(there) * data + direction * self._epsilon(here, clipped=clipped)
        return Update(mean + deviation * noise, raw, data, draws=eta > 0)


class DDIMScheduler(Implicit, diffusers.DDIMScheduler):
    """Song et al. 2021, arXiv 2010.02502, eq. 12, in strides of num_train_timesteps // steps.

    x_prev = sqrt(ab_prev) x0 + sqrt(1 - ab_prev - std^2) eps + std z,
    std^2 = eta^2 (1 - ab_prev) / (1 - ab) (1 - ab / ab_prev).
    """


class DDIMParallelScheduler(Implicit, diffusers.DDIMParallelScheduler):
    """`DDIMScheduler` for ParaDiGMS pipelines; `batch_step_no_noise` is diffusers' own."""
