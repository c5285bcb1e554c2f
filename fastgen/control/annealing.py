"""Decoupled annealing: solve to data, draw near the observation, add noise, with less each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_positive, check_whole
from fastgen.common.display import displayed
from fastgen.common.transforms import BACKWARD, untransformed
from fastgen.kernels import Stream
from fastgen.model.model import Model
from fastgen.noise.keys import id_tensor, seed_tensor
from fastgen.noise.normals import normals
from fastgen.observations import Observation
from fastgen.observations.solving import pulled
from fastgen.sampling.sample import sample
from fastgen.solvers import plan


@displayed
@dataclass(frozen=True)
class DAPS:
    """Decoupled annealing posterior sampling (Zhang et al. 2024, arXiv 2407.01521, Alg. 1).

    At each level the probability flow is solved to data x^, then x_0 is drawn from
    N(x^, r^2) p(y | x_0), and noised to the next level. The paper draws by Langevin steps; here the
    Gaussian is drawn exactly (a perturbed system, solved), for functions that are not linear with
    their derivative at x^. r^2 = s^2 sigma^2 / (s^2 alpha^2 + sigma^2), the paper's sigma^2 where
    there is little noise. Biased, as p(x_0 | x_t) is no such Gaussian; but levels are
    independent given x_0, so that errors of the first are forgotten.

    Args:
        data_std: s, of the data.
        solver: of the probability flow.
        evaluations: steps of it at each level.
        iterations: of conjugate gradients for A A^T.
    """

    data_std: float = 1.0
    solver: str = "ddim"
    evaluations: int = 5
    iterations: int = 20

    def __post_init__(self) -> None:
        check_positive("data_std", self.data_std)
        check_whole("evaluations", self.evaluations, 1)
        check_whole("iterations", self.iterations, 1)


@untransformed(BACKWARD)
def annealed(
    model: Model,
    observation: Observation,
    shape: tuple[int, ...],
    method: DAPS,
    steps: int,
    net_kwargs: Mapping[str, Any],
    *,
    seed: int | Sequence[int] | Tensor,
    sample_ids: Sequence[int] | Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """A batch by `DAPS`, of ``steps`` levels."""
    schedule = model.schedule
    times = plan("ddpm", schedule, steps).times.tolist()
    seeds, ids = seed_tensor(seed, shape[0], device), id_tensor(sample_ids, shape[0], device)
    x: Tensor = normals(shape, seeds, ids, 0, Stream.INITIAL, dtype) * schedule.sigma(times[0])
    given = observation.of(observation.tensors, x)
    options: dict[str, Any] = {"dtype": dtype, "net_kwargs": dict(net_kwargs)}

    def noise(like: Sequence[int], draw: int) -> Tensor:
        return normals((shape[0], *like[1:]), seeds, ids, draw, Stream.SOLVER, dtype)

    for i, (s, t) in enumerate(pairwise(times)):
        data = sample(model, x, method.solver, method.evaluations, start=s, **options)
        near = given.near(data)
        square = method.data_std**2
        variance = schedule.sigma(s) ** 2 * square
        variance /= square * schedule.alpha(s) ** 2 + schedule.sigma(s) ** 2
        spread = variance**0.5 * noise(shape, 3 * i + 1)
        residual = near.residual - near.forward(spread)
        residual = residual - near.variance.sqrt() * noise(residual.shape, 3 * i + 2)
        prior = torch.full((1,) * len(shape), variance, dtype=dtype, device=device)
        way = pulled(replace(near, residual=residual), prior, given.noise.none, method.iterations)
        x = schedule.alpha(t) * (data + spread + way)
        if schedule.sigma(t):
            x = x + schedule.sigma(t) * noise(shape, 3 * i + 3)
    return x
