"""azula's posterior samplers on an exact denoiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
