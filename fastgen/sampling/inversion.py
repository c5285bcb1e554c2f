"""Inversion: a deterministic plan run from data to noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_floating, rows_of
from fastgen.common.display import displayed, extent
from fastgen.common.typed import typed
from fastgen.model.model import Model, check_model, merged
from fastgen.plans import Plan
from fastgen.sampling.sampler import Sampler
from fastgen.solvers import Solver, plan


@displayed
@dataclass(frozen=True)
class Inversion:
    """What an inversion found.

    latent: the state [B, ...] at the plan's first time; reconstruction: the latent sampled back
    to data along the same times; error: for each sample the root mean square of reconstruction - x;
    sampling: the plan that leads back.
    """

    latent: Tensor
    reconstruction: Tensor
    error: Tensor
    sampling: Plan

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"latent": self.latent, "error": extent(self.error)}
        return facts | {"sampling": self.sampling}


@typed
def invert(
    model: Model,
    x: Tensor,
    solver: str | Solver[...] = "heun",
    steps: int | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
    net_kwargs: dict[str, Any] | None = None,
    **plan_options: Any,
) -> Inversion:
    """Solve the probability-flow ODE from data to noise, and back (DDIM inversion and its kin).

    The data is taken for the state at ``end``, by default the schedule's ``t_min``: at t = 0
    most solvers have nothing to start from, as sigma = 0 there. Song, Meng and Ermon 2021, arXiv
    2010.02502, section 4.3; any deterministic solver serves, and the error falls with its order.

    Args:
        model: the network and what it means.
        x: data [B, ...].
        solver: a deterministic one of `fastgen.solvers`, or its name.
        steps: steps of each direction.
        start: the noisy end of the grid; the default is the schedule's ``t_max``.
        end: the time that the data is given.
        dtype: dtype of the state.
        backend: see `Sampler`.
        net_kwargs: keyword arguments for the network.
        **plan_options: see `fastgen.plan`.

    Raises:
        ValueError: if the plan draws noise.
    """
    check_model(model)
    check_floating("x", x)
    schedule = model.schedule
    end = schedule.t_min if end is None else end
    grid: dict[str, Any] = {"start": start, "end": end, "predicts": model.predicts}
    back = plan(solver, schedule, steps, **grid, **plan_options)
    if back.draws:
        raise ValueError(f"solver={solver!r} draws noise and cannot be inverted; take eta=0, say")
    forward = plan(solver, schedule, steps, **grid, **plan_options, reverse=True)
    kwargs = merged(net_kwargs, {})
    latent = Sampler(model, forward, dtype=dtype, backend=backend)(x, net_kwargs=kwargs)
    reconstruction = Sampler(model, back, dtype=dtype, backend=backend)(latent, net_kwargs=kwargs)
    error = rows_of(reconstruction - x).square().mean(1).sqrt()
    return Inversion(latent, reconstruction, error, back)
