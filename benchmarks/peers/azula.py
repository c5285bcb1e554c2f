"""azula's samplers: posterior ones on an exact denoiser, and those of the probability flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastgen
from benchmarks.problems.posteriors import Modes

Run = Callable[[Tensor], Tensor]


def samplers(prior: Modes, forward: Run, inverse: Run, y: Tensor, noise: float, steps: int) -> Any:
    """By method a function from a seed and a count to samples [count, n]; azula's defaults."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.guidance import (
        DiffPIRDenoiser,
        DPSSampler,
        MMPSDenoiser,
        PGDMSampler,
        TDSSampler,
        TMPDenoiser,
    )
    from azula.linalg.covariance import IsotropicCovariance
    from azula.noise import VPSchedule
    from azula.sample import DDPMSampler

    class Exact(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.levels = VPSchedule()

        @property
        def schedule(self) -> Any:
            return self.levels

        def forward(self, x: Tensor, t: Tensor, **kwargs: Any) -> Any:
            return DiracPosterior(mean=prior.denoise(x, *self.levels(t)))

    denoiser = Exact()

    def twist(data: Tensor, ratio: Tensor) -> Tensor:
        variance = prior.std**2 * ratio**2 / (prior.std**2 + ratio**2)
        return -((y - forward(data)) ** 2) / (2 * (noise**2 + variance))

    options: dict[str, Any] = {"steps": steps, "silent": True}
    covariance = IsotropicCovariance(torch.tensor(noise**2))
    made: dict[str, Callable[[int], Any]] = {
        "dps": lambda n: DPSSampler(denoiser, y.expand(n, -1), forward, **options),
        "pigdm": lambda n: PGDMSampler(
            denoiser, y.expand(n, -1), forward, inverse, eta=1.0, **options
        ),
        "tmpd": lambda n: DDPMSampler(
            TMPDenoiser(denoiser, y.expand(n, -1), forward, noise**2), **options
        ),
        "mmps": lambda n: DDPMSampler(
            MMPSDenoiser(denoiser, y.expand(n, -1), forward, covariance, iterations=2), **options
        ),
        "diffpir": lambda n: DDPMSampler(
            DiffPIRDenoiser(denoiser, y.expand(n, -1), forward, noise**2, iterations=2), **options
        ),
        "twisted": lambda n: TDSSampler(denoiser, twist, **options),
    }

    def runner(make: Callable[[int], Any]) -> Callable[[int, int], Tensor]:
        def run(seed: int, count: int) -> Tensor:
            torch.manual_seed(seed)
            x = torch.randn(count, prior.dimension) * denoiser.levels(torch.tensor(1.0))[1]
            found: Tensor = make(count)(x)
            return found

        return run

    return {name: runner(make) for name, make in made.items()}


def flows(model: fastgen.Model, steps: int, dtype: torch.dtype) -> dict[str, Run]:
    """By sampler a function from noise to data, of ``steps`` evaluations evenly in time.

    Those of one evaluation in each step; the model is not guided and takes no arguments.
    """
    import azula.sample
    from azula.denoise import Denoiser, DiracPosterior

    class Levels(torch.nn.Module):
        def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
            levels = model.schedule.alpha(t.double()), model.schedule.sigma(t.double())
            return levels[0].to(dtype), levels[1].to(dtype)

    class Asked(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.levels = Levels()

        @property
        def schedule(self) -> Any:
            return self.levels

        def forward(self, x: Tensor, t: Tensor, **kwargs: Any) -> Any:
            return DiracPosterior(mean=model.predict("data", x, float(t)))

    start, end = model.schedule.t_max, model.schedule.t_min
    options: dict[str, Any] = {"start": start, "silent": True}

    def made(name: str, **more: Any) -> Run:
        run: Run = getattr(azula.sample, f"{name}Sampler")(Asked(), **options, **more)
        return run

    def to_data(run: Run) -> Run:
        # They take logarithms of sigma: the last evaluation is the data prediction at t_min.
        return lambda x: model.predict("data", run(x), end)

    found = {name: made(name, steps=steps) for name in ("DDIM", "zAB", "vAB")}
    return found | {
        name: to_data(made(name, steps=steps - 1, stop=end)) for name in ("xEAB", "zEAB", "REAB")
    }
