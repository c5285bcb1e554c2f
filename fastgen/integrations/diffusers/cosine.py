"""DPM-Solver++'s SDE on a cosine schedule's preconditioned network, along a Brownian path."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from fastgen.integrations.diffusers.base import not_started
from fastgen.integrations.diffusers.contract_noise import Generators
from fastgen.integrations.diffusers.exponential import Multistep
from fastgen.integrations.diffusers.fused_step import Transform, data, out, x
from fastgen.integrations.diffusers.outputs import packed
from fastgen.integrations.diffusers.two_calls import TreeNoiseSampler
from fastgen.plans.forms import Form

ROUNDING = 1e-6


class CosineDPMSolverMultistepScheduler(Multistep, diffusers.CosineDPMSolverMultistepScheduler):
    """DPM-Solver++ SDE, orders 1 and 2, alpha = 1 (Stable Audio; arXiv 2211.01095).

    x0 = c_skip x +- c_out F, c_skip = d^2 / (sigma^2 + d^2), c_out = sigma d / sqrt(sigma^2 + d^2),
    d = sigma_data. With noise="torch" the path is torchsde's, with "contract" `fastgen.brownian`;
    the generator's seed is the seed of both.
    """

    _noise_in_kernel = False
    noise_sampler: Any

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """The previous sample; as diffusers' step."""
        if self.num_inference_steps is None:
            raise not_started("num_inference_steps", "step")
        run, k = self._place(timestep)
        if self.noise_sampler is None:
            seeds: Any = self._noise[1]
            if isinstance(generator, list):
                seeds = [g.initial_seed() for g in generator]
            elif generator is not None:
                seeds = generator.initial_seed()
            path: Any = BrownianTreeNoiseSampler if run.contract is None else TreeNoiseSampler
            low, high = self.config.sigma_min, self.config.sigma_max
            self.noise_sampler = path(model_output, low, high, seeds)
        sigma, to = run.sigmas_at(k)
        # A step that goes nowhere but for a rounding, as one to sigma_min may, has no noise.
        z = torch.zeros_like(model_output)
        if sigma - to > ROUNDING * sigma:
            z = self.noise_sampler(self.sigmas[k], self.sigmas[k + 1]).to(model_output.device)
        results = self._multistep(model_output, timestep, sample, variance_noise=z)
        return packed(SchedulerOutput, results) if return_dict else results

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """The network's input for the state ``sample``."""
        run = self._current()
        sigma = run.host_sigmas[self._at(timestep)]
        self.is_scale_input_called = True
        return sample / math.sqrt(sigma**2 + self.config.sigma_data**2)

    def _transform(self) -> Transform:
        return None

    def _algorithm(self) -> str:
        return "sde-dpmsolver++"

    def _third(self, algorithm: str) -> bool:
        return False

    def _scales(self, sigma: float) -> tuple[float, float]:
        return 1.0, sigma

    def _value(self, sigma: float, data_prediction: bool) -> tuple[Form, Form | None]:
        kind, d = self.config.prediction_type, self.config.sigma_data
        signs = {"epsilon": 1.0, "v_prediction": -1.0}
        if kind not in signs:
            raise ValueError(
                f"prediction_type={kind!r}: {type(self).__name__} knows {', '.join(signs)}"
            )
        width = math.hypot(sigma, d)
        return data, (d / width) ** 2 * x + signs[kind] * sigma * d / width * out
