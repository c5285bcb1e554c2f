"""`sample`: a batch in one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fastgen.common.errors import nearest
from fastgen.common.typed import typed
from fastgen.model.guidance import Guidance, Transform
from fastgen.model.model import Model, check_model
from fastgen.sampling import error_controlled
from fastgen.sampling.observation import Step
from fastgen.sampling.sampler import Sampler
from fastgen.solvers.registry import known_options, plan


@dataclass(frozen=True)
class _Planned:
    """Arguments of `sample` that have a meaning only where the steps are planned."""

    steps: int | None = None
    transform: Transform | None = None
    noise: str = "draws"
    trajectory: bool = False
    callback: Callable[[Step], None] | None = None
    progress: bool = False
    checkpoint: bool = False

    def refuse(self, solver: str) -> None:
        """Raise a ValueError for one that was given."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not field.default and value != field.default:
                raise ValueError(
                    f"{field.name}={value!r}: solver {solver!r} chooses its own steps and has none"
                )


@typed
def sample(
    model: Model,
    shape_or_x: Sequence[int] | Tensor,
    solver: str = "dpmpp_2m",
    steps: int | None = None,
    *,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    guidance: Guidance | None = None,
    transform: Transform | None = None,
    noise: str = "draws",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
    trajectory: bool = False,
    callback: Callable[[Step], None] | None = None,
    progress: bool = False,
    check_finite: bool = False,
    differentiable: bool = False,
    checkpoint: bool = False,
    net_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Plan and draw a batch in one call.

    ``sample(model, (16, 3, 64, 64), solver="dpmpp_2m", steps=12, seed=7)``. The plan's options
    (``timesteps``, ``start``, ``end``, ``clip``, the solver's and the grid's own) are those of
    `fastgen.plan`, everything else is that of `Sampler`.

    Args:
        model: the network and what it means.
        shape_or_x: [B, ...], or the initial state.
        solver: a name from `fastgen.solvers.names()`, or, for steps that each sample chooses for
            itself, one of `error_controlled.SOLVERS` ("dopri5", "dpm_adaptive", ...), with the
            options of `error_controlled.sample_adaptive` (``rtol``, ``atol``, ...).
        steps: number of steps.
        seed, sample_ids, device, trajectory, callback, progress, check_finite, differentiable,
            checkpoint: as in `Sampler.__call__`.
        guidance, transform, noise, dtype, backend: see `Sampler`.
        net_kwargs: keyword arguments for the network.
        **options: the plan's (see `fastgen.plan`), or the integrator's.

    Returns:
        The sample [B, ...], or (sample, states [n + 1, B, ...]) with ``trajectory``.

    Raises:
        TypeError: for an unknown option, naming the nearest one.
        ValueError: for an argument out of range.

    Example:
        >>> model = fastgen.Model(lambda x, t: 0 * x, fastgen.schedules.CosineVP(), predicts="data")
        >>> fastgen.sample(model, (16, 3, 64, 64), "dpmpp_2m", steps=12, seed=7).shape
        torch.Size([16, 3, 64, 64])
    """
    check_model(model)
    if isinstance(solver, str) and solver in error_controlled.SOLVERS:
        _Planned(steps, transform, noise, trajectory, callback, progress, checkpoint).refuse(solver)
        return error_controlled.sample_batch(
            model,
            shape_or_x,
            solver,
            seed=seed,
            sample_ids=sample_ids,
            guidance=guidance,
            dtype=dtype,
            device=device,
            backend=backend,
            check_finite=check_finite,
            differentiable=differentiable,
            net_kwargs=net_kwargs,
            **options,
        )
    known = known_options(solver, model.schedule, options.get("timesteps"))
    for option in options:
        if option not in known:
            raise TypeError(
                f"unknown option {option!r}: {nearest(option, (*_keywords(), *known))}; the "
                f"network's own arguments go into net_kwargs={{{option!r}: ...}}"
            )
    sampler = Sampler(
        model,
        plan(solver, model.schedule, steps, predicts=model.predicts, **options),
        guidance=guidance,
        transform=transform,
        noise=noise,
        dtype=dtype,
        backend=backend,
    )
    result = sampler(
        shape_or_x,
        seed=seed,
        sample_ids=sample_ids,
        device=device,
        trajectory=trajectory,
        callback=callback,
        progress=progress,
        check_finite=check_finite,
        differentiable=differentiable,
        checkpoint=checkpoint,
        net_kwargs=net_kwargs,
    )
    sampler.prepared.retire()
    return result


@cache
def _keywords() -> tuple[str, ...]:
    parameters = inspect.signature(sample).parameters.values()
    return tuple(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)
