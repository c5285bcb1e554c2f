"""`sample`: a batch in one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor

from fastgen.common.error_control import ErrorControlled, name_and_options
from fastgen.common.errors import nearest
from fastgen.common.typed import typed
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model, check_model
from fastgen.model.transforms import Transform
from fastgen.sampling import error_controlled
from fastgen.sampling.observation import Step
from fastgen.sampling.parallel import Parallel
from fastgen.sampling.sampler import Sampler
from fastgen.solvers.registry import Solver, known_options, plan
from fastgen.timesteps import Grid

AnySolver: TypeAlias = str | Solver[...] | ErrorControlled[...]


@dataclass(frozen=True)
class _Planned:
    """Arguments of `sample` that have a meaning only where the steps are planned."""

    transform: Transform | None = None
    noise: str = "draws"
    checkpoint: bool = False
    memory: str = "whole"
    parallel: Parallel | None = None

    def refuse(self, solver: str) -> None:
        """Raise a ValueError for one that was given."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not field.default and value != field.default:
                raise ValueError(
                    f"{field.name}={value!r}: solver {solver!r} chooses its own steps and has none"
                )


@overload
def sample(
    model: Model,
    shape_or_x: Sequence[int] | Tensor,
    solver: AnySolver = "auto",
    steps: int | None = None,
    *,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    guidance: Guidance | None = None,
    transform: Transform | None = None,
    noise: str = "draws",
    data: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
    trajectory: Literal[False] = False,
    callback: Callable[[Step], None] | None = None,
    progress: bool = False,
    check_finite: bool = False,
    differentiable: bool = False,
    checkpoint: bool = False,
    memory: Literal["whole", "reversible"] = "whole",
    parallel: Parallel | None = None,
    net_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> Tensor: ...
@overload
def sample(
    model: Model,
    shape_or_x: Sequence[int] | Tensor,
    solver: AnySolver = "auto",
    steps: int | None = None,
    *,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    guidance: Guidance | None = None,
    transform: Transform | None = None,
    noise: str = "draws",
    data: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
    trajectory: Literal[True],
    callback: Callable[[Step], None] | None = None,
    progress: bool = False,
    check_finite: bool = False,
    differentiable: bool = False,
    checkpoint: bool = False,
    memory: Literal["whole", "reversible"] = "whole",
    parallel: Parallel | None = None,
    net_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]: ...
@overload
def sample(
    model: Model,
    shape_or_x: Sequence[int] | Tensor,
    solver: AnySolver = "auto",
    steps: int | None = None,
    *,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    guidance: Guidance | None = None,
    transform: Transform | None = None,
    noise: str = "draws",
    data: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
    trajectory: bool,
    callback: Callable[[Step], None] | None = None,
    progress: bool = False,
    check_finite: bool = False,
    differentiable: bool = False,
    checkpoint: bool = False,
    memory: Literal["whole", "reversible"] = "whole",
    parallel: Parallel | None = None,
    net_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]: ...
@typed
def sample(
    model: Model,
    shape_or_x: Sequence[int] | Tensor,
    solver: AnySolver = "auto",
    steps: int | None = None,
    *,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    guidance: Guidance | None = None,
    transform: Transform | None = None,
    noise: str = "draws",
    data: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
    trajectory: bool = False,
    callback: Callable[[Step], None] | None = None,
    progress: bool = False,
    check_finite: bool = False,
    differentiable: bool = False,
    checkpoint: bool = False,
    memory: Literal["whole", "reversible"] = "whole",
    parallel: Parallel | None = None,
    net_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Plan and draw a batch in one call.

    ``sample(model, (16, 3, 64, 64), solver="dpmpp_2m", steps=12, seed=7)``. The plan's options
    (``timesteps``, ``start``, ``end``, ``clip``, the solver's and the grid's own) are those of
    `fastgen.plan`, everything else is that of `Sampler`.

    Args:
        model: the network and what it means.
        shape_or_x: [B, ...], or the initial state.
        solver: one of `fastgen.solvers`, with its options or without, or its name:
            ``solvers.ddim(eta=0.5)``, ``solvers.unipc(order=3)``, "dpmpp_2m"; "auto" is the best
            measured for this many steps and this kind of network (`fastgen.plan`). `solvers.names`
            lists them, ``help(fastgen.solvers.ddim)`` shows the options of one. ``dopri5`` and
            its neighbours (`error_controlled.SOLVERS`) let each sample choose its own steps.
        steps: number of steps.
        seed, sample_ids, data, device, check_finite, differentiable, checkpoint, memory,
            parallel: as in `Sampler.__call__`. ``data`` needs a ``start``.
        trajectory: return (sample, states [n + 1, B, ...]): the initial state and those after each
            step. Of an error-controlled solver row i has each sample after i accepted steps of its
            own, and those that have ended stay; or with ``timesteps``, a grid or falling times,
            the states at these times, with gradients where they are asked for.
        callback: called with a `Step` after each step; of an error-controlled solver after each
            that moved a sample (with ``step="joint"`` all of them at once).
        progress: show a progress bar (needs tqdm): evaluations, or the time that is covered.
        guidance, transform, noise, dtype, backend: see `Sampler`.
        net_kwargs: keyword arguments for the network.
        **options: the plan's (see `fastgen.plan`), or the integrator's: a grid from
            `fastgen.timesteps` (``timesteps=timesteps.karras(rho=7)``, ``"karras"``, or the times),
            ``start``, ``end``, ``clip``, and a named solver's own options (``eta=0.5``).

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
    grid = options.get("timesteps")
    if (
        data is not None
        and options.get("start") is None
        and (grid is None or isinstance(grid, str | Grid))
    ):
        raise ValueError("data: nothing of it is left at t = 1; pass start=, 0.6 say")
    if isinstance(solver, ErrorControlled):
        solver, own = name_and_options(solver, options)
        options |= own
    if isinstance(solver, str) and solver in error_controlled.SOLVERS:
        _Planned(transform, noise, checkpoint, memory, parallel).refuse(solver)
        return error_controlled.sample_batch(
            model,
            shape_or_x,
            solver,
            steps,
            seed=seed,
            sample_ids=sample_ids,
            guidance=guidance,
            dtype=dtype,
            device=device,
            backend=backend,
            trajectory=trajectory,
            callback=callback,
            progress=progress,
            check_finite=check_finite,
            differentiable=differentiable,
            net_kwargs=net_kwargs,
            data=data,
            **options,
        )
    known = known_options(solver, model.schedule, options.get("timesteps")) if options else ()
    for option in options:
        if option == "mask":
            raise TypeError(
                f"mask: it leaves padding out of error estimates, of which {solver!r} has none. "
                "Pass sigma times fastgen.randn(shape, seed=..., mask=live) as the state, and to a "
                "network that ignores padding net_kwargs={'mask': live}; or choose a solver with "
                "error control, such as 'dopri5'"
            )
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
        data=data,
        device=device,
        trajectory=trajectory,
        callback=callback,
        progress=progress,
        check_finite=check_finite,
        differentiable=differentiable,
        checkpoint=checkpoint,
        memory=memory,
        parallel=parallel,
        net_kwargs=net_kwargs,
    )
    sampler.prepared.retire()
    return result


@cache
def _keywords() -> tuple[str, ...]:
    parameters = inspect.signature(sample).parameters.values()
    return tuple(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)
