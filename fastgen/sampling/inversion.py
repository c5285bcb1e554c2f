"""Inversion: a deterministic plan run from data to noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_floating, rows_of
from fastgen.common.display import displayed, extent
from fastgen.common.transforms import transforming
from fastgen.common.typed import typed
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model, check_model, merged
from fastgen.plans import Plan
from fastgen.sampling.sampler import Sampler
from fastgen.schedules import Schedule
from fastgen.solvers import Solver, plan


@displayed
@dataclass(frozen=True)
class Inversion:
    """What an inversion found.

    latent: the state [B, ...] at the plan's first time; reconstruction: the latent sampled back
    to data along the same times; error: for each sample the root mean square of reconstruction - x;
    sampling: the plan that leads back; partner: of an exact inversion the second state of the pair
    at the first time, None otherwise. `resample` is the way back with other arguments.
    """

    latent: Tensor
    reconstruction: Tensor
    error: Tensor
    sampling: Plan
    partner: Tensor | None = None
    _again: Callable[[dict[str, Any]], Tensor] | None = field(
        default=None, repr=False, compare=False
    )

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"latent": self.latent, "error": extent(self.error)}
        return facts | {"sampling": self.sampling, "exact": self.partner is not None}

    def resample(self, *, net_kwargs: Mapping[str, Any] | None = None, **kwargs: Any) -> Tensor:
        """The latent sampled to data again, with these arguments of the network, [B, ...].

        With those of the inversion it is the reconstruction; with another condition an edit.
        """
        if self._again is None:
            raise RuntimeError("Inversion: made by hand; sample its latent with its plan")
        return self._again(merged(net_kwargs, kwargs))


@typed
def invert(
    model: Model,
    x: Tensor,
    solver: str | Solver[...] = "heun",
    steps: int | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    exact: bool = False,
    seed: int | Sequence[int] | Tensor = 0,
    guidance: Guidance | None = None,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
    net_kwargs: dict[str, Any] | None = None,
    **plan_options: Any,
) -> Inversion:
    """Solve the probability-flow ODE from data to noise, and back (DDIM inversion and its kin).

    The data is taken for the state at ``end``, by default the schedule's ``t_min``: at t = 0
    most solvers have nothing to start from, as sigma = 0 there. Song, Meng and Ermon 2021, arXiv
    2010.02502, section 4.3; any deterministic solver serves, and the error falls with its order.

    With ``exact`` the way back is that of a reversible plan (`fastgen.plan`), and the error is
    rounding: any single-step solver serves, stochastic ones included, at twice the evaluations. The
    latent is then a pair of states, near each other; both begin at x.

    Args:
        model: the network and what it means.
        x: data [B, ...].
        solver: a deterministic one of `fastgen.solvers`, or its name; a single-step one if exact.
        steps: steps of each direction.
        start: the noisy end of the grid; the default is the schedule's ``t_max``.
        end: the time that the data is given.
        exact: retrace a reversible plan; ``reversible=`` among the plan's options is its coupling.
        seed: of the noise of an exact inversion's stochastic solver.
        guidance: of both directions. Without ``exact`` a scale above 1 makes the error large.
        dtype: dtype of the state.
        backend: see `Sampler`.
        net_kwargs: keyword arguments for the network.
        **plan_options: see `fastgen.plan`.

    Raises:
        ValueError: if the plan draws noise and exact is False, or has no step back; with exact,
            under forward-mode derivatives and within torch.func's transforms.
    """
    check_model(model)
    check_floating("x", x)
    schedule = model.schedule
    end = schedule.t_min if end is None else end
    grid: dict[str, Any] = {"start": start, "end": end, "predicts": model.predicts}
    options: dict[str, Any] = {"guidance": guidance, "dtype": dtype, "backend": backend}
    kwargs = merged(net_kwargs, {})
    if exact:
        if transforming():
            raise ValueError(
                "exact=True: no derivative goes through an inversion that is retraced; make it "
                "outside of forward-mode derivatives and torch.func's transforms"
            )
        grid["reversible"] = plan_options.pop("reversible", True)
        there = Sampler(model, plan(solver, schedule, steps, **grid, **plan_options), **options)
        return _retraced(there, x, seed, kwargs)
    forward, back = deterministic_pair(
        schedule, solver, steps, end, {**grid, **plan_options}, " or exact=True"
    )
    latent = Sampler(model, forward, **options)(x, net_kwargs=kwargs)
    sampler = Sampler(model, back, **options)

    def again(kwargs: dict[str, Any]) -> Tensor:
        return sampler(latent, net_kwargs=kwargs)

    found = again(kwargs)
    return Inversion(latent, found, _apart(found, x), back, None, again)


def deterministic_pair(
    schedule: Schedule,
    solver: str | Solver[...],
    steps: int | None,
    end: float,
    options: dict[str, Any],
    more: str = "",
) -> tuple[Plan, Plan]:
    """Plans from data at ``end`` to noise, and back; a ValueError for a solver that draws."""
    back = plan(solver, schedule, steps, **{"end": end} | options)
    if back.draws:
        raise ValueError(
            f"solver={solver!r} draws noise and cannot be inverted; take eta=0, say,{more}"
        )
    return plan(solver, schedule, steps, **{"end": end} | options, reverse=True), back


def _retraced(
    sampler: Sampler, x: Tensor, seed: int | Sequence[int] | Tensor, kwargs: dict[str, Any]
) -> Inversion:
    """The inversion of a reversible plan, both of whose states end at x."""
    y, *keys = sampler.prepared.initial(x, seed, None, None)
    both = keys[0], keys[1]
    with torch.no_grad():
        steps = sampler.retracing
        pair = steps.back(steps.final(y, both, kwargs), both, kwargs)

    def again(kwargs: dict[str, Any]) -> Tensor:
        with torch.no_grad():
            return sampler.retracing.there(pair, both, kwargs, last=False)[0]

    found = again(kwargs)
    return Inversion(pair[0], found, _apart(found, x), sampler.plan, pair[1], again)


def _apart(found: Tensor, x: Tensor) -> Tensor:
    return rows_of(found - x).square().mean(1).sqrt()
