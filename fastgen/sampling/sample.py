"""`sample`: a batch in one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.common.errors import nearest
from fastgen.model.guidance import Guidance, Transform
from fastgen.model.model import Model
from fastgen.sampling import error_controlled as adaptive
from fastgen.sampling.observation import Step
from fastgen.sampling.sampler import Sampler
from fastgen.solvers.registry import known_options, plan


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
    **plan_options: Any,
) -> Any:
    """Plan and draw a batch in one call.

    ``sample(model, (16, 3, 64, 64), solver="dpmpp_2m", steps=12, seed=7)``. The plan's options
    (``timesteps``, ``start``, ``end``, ``clip``, the solver's and the grid's own) are those of
    `fastgen.plan`, everything else is that of `Sampler`.

    Args:
        model: the network and what it means.
        shape_or_x: [B, ...], or the initial state.
        solver: a name from `fastgen.solvers.names()`, or for steps of its own choice in every
            sample one of `error_controlled.SOLVERS` ("dopri5", "dpm_adaptive", ...), with the
            options of `error_controlled.sample_adaptive` (``rtol``, ``atol``, ...).
        steps: number of steps.
        seed, sample_ids, device, trajectory, callback, progress, check_finite, differentiable,
            checkpoint: as in `Sampler.__call__`.
        guidance, transform, noise, dtype, backend: see `Sampler`.
        net_kwargs: keyword arguments for the network.
        **plan_options: see `fastgen.plan`.

    Returns:
        The sample [B, ...], or (sample, states [n + 1, B, ...]) with ``trajectory``.

    Raises:
        TypeError: for an unknown option, naming the nearest one.
        ValueError: for an argument out of range.
    """
    if solver in adaptive.SOLVERS:
        given = dict(locals())
        defaults = {n: q.default for n, q in inspect.signature(sample).parameters.items()}
        return adaptive.sample_by_name(model, shape_or_x, solver, given, defaults, plan_options)
    own = [n for n, q in inspect.signature(sample).parameters.items() if q.kind is q.KEYWORD_ONLY]
    known = [*own, *known_options(solver, model.schedule, plan_options.get("timesteps"))]
    for option in plan_options:
        if option not in known:
            raise TypeError(f"unknown option {option!r}: {nearest(option, known)}")
    program = plan(solver, model.schedule, steps, predicts=model.predicts, **plan_options)
    sampler = Sampler(
        model,
        program,
        guidance=guidance,
        transform=transform,
        noise=noise,
        dtype=dtype,
        backend=backend,
    )
    return sampler(
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
        **(net_kwargs or {}),
    )
