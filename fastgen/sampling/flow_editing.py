"""FlowEdit: from one condition to another, along the difference of two velocities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_floating, check_whole
from fastgen.common.modes import unrecorded
from fastgen.common.transforms import check_untraced
from fastgen.common.typed import typed
from fastgen.kernels import Stream
from fastgen.model.field import ModelField
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model, check_model
from fastgen.noise.keys import id_tensor, seed_tensor
from fastgen.noise.normals import normals
from fastgen.timesteps import Grid
from fastgen.timesteps import times as grid_times

# Noises of a step: so that all draws of a run have numbers of the contract.
MOST = 1 << 20


@typed
def flow_edit(
    model: Model,
    x: Tensor,
    steps: int | None = 28,
    *,
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    source_guidance: Guidance | None = None,
    target_guidance: Guidance | None = None,
    start: float = 0.66,
    end: float = 0.0,
    timesteps: str | Grid[...] | Sequence[float] = "uniform",
    average: int = 1,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Edit data without inversion (FlowEdit, Kulikov et al. 2024, arXiv 2412.08629, algorithm 1).

    y begins at x and follows dy/dt = v(y + x_t - x, t; target) - v(x_t, t; source) from ``start``
    to ``end``, in steps of Euler's method; x_t = alpha x + sigma z with new noise z at each step.
    Where the conditions agree x stays as it is. The paper is on rectified flows; any schedule
    whose velocity is finite at the times will do.

    Args:
        model: the network and what it means; its prediction has to determine the velocity.
        x: data [B, ...], in the network's range.
        steps: of the grid; None with given times.
        source, target: the network's keyword arguments, of x and of what it should become.
        source_guidance, target_guidance: of each; the paper's are 3.5 and 13.5 for Stable
            Diffusion 3, with 33 of 50 steps, ``start=0.66``.
        start: where the edit begins: near 1 more is changed.
        end: where it ends.
        timesteps: a grid from start to end, or falling times.
        average: noises of each step, over which the velocities are averaged: the paper's n_avg, at
            most 2^20. The evaluations are 2 x average x steps, and twice that with guidance.
        seed, sample_ids: of the noise, as in `Sampler.__call__`.

    Returns:
        The edited data [B, ...] in x's dtype.

    Raises:
        TypeError, ValueError: naming the argument. ValueError also for networks of whole times.

    Example:
        >>> def net(x, t, mean):  # the velocity of data that are all `mean`
        ...     return (x - mean) / t.reshape(-1, 1)
        >>> model = fastgen.Model(net, fastgen.schedules.Rectified(), predicts="velocity")
        >>> x = torch.zeros(1, 1)
        >>> fastgen.flow_edit(model, x, 4, source={"mean": 0.0}, target={"mean": 2.0})
        tensor([[2.]])
    """
    check_model(model)
    check_floating("x", x)
    check_whole("average", average, 1, MOST)
    if not model.time_dtype.is_floating_point:
        raise ValueError(
            f"time_dtype={model.time_dtype}: the network must take a floating time; take "
            "invert(..., exact=True) and its resample with another condition"
        )
    check_untraced("flow_edit", "use it without", x=x, source=source, target=target)
    schedule, batch = model.schedule, len(x)
    times = grid_times(timesteps, schedule, steps, **_ends(timesteps, start, end)).tolist()
    keys = seed_tensor(seed, batch, x.device), id_tensor(sample_ids, batch, x.device)
    rows = torch.arange(batch, device=x.device)
    fields = [
        ModelField(model, batch, kwargs, guidance)
        for kwargs, guidance in ((source, source_guidance), (target, target_guidance))
    ]
    with unrecorded(model.net):
        x = y = x.detach()
        for n, (t, after) in enumerate(pairwise(times)):
            time = torch.full((batch,), t, dtype=torch.float64, device=x.device)
            total = torch.zeros_like(x)
            for j in range(average):
                z = normals(x.shape, *keys, n * average + j, Stream.SOLVER, x.dtype)
                noisy = schedule.alpha(t) * x + schedule.sigma(t) * z
                total += fields[1]("velocity", time, y + (noisy - x), rows)
                total -= fields[0]("velocity", time, noisy, rows)
            y = y + ((after - t) / average) * total
    return y


def _ends(timesteps: Any, start: float, end: float) -> dict[str, float]:
    """The ends of a grid; given times have their own."""
    return {"start": start, "end": end} if isinstance(timesteps, str | Grid) else {}
