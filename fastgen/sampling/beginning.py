"""Where a run begins: at noise, at data with noise, or at a state that is given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen.common.checks import check_floating, check_sizes
from fastgen.common.devices import check_device
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model
from fastgen.noise.keys import id_tensor, ids_in_order, seed_tensor
from fastgen.noise.normals import normals
from fastgen.schedules import Schedule

# Up to this alpha / sigma noise alone may stand for the data with noise: of data of deviation 1 the
# noise then has 97 % of the deviation, and 1 / 1000 nat of divergence for each element.
NEGLIGIBLE = 0.25


def check_start(schedule: Schedule, start: float) -> None:
    """Raise a ValueError where noise alone is not what data with noise look like.

    The schedule's own end, which the network was trained to, is never refused.
    """
    if start >= schedule.t_max - 1e-9:
        return
    alpha, sigma = schedule.alpha(start), schedule.sigma(start)
    if alpha > (NEGLIGIBLE + 1e-9) * sigma:
        raise ValueError(
            f"start={start:g}: the state there is {alpha:.3g} data + {sigma:.3g} noise, of which a "
            "shape gives the noise alone; pass data=, a state [B, ...] instead of the shape, or a "
            f"start nearer to {schedule.t_max:g}"
        )


def initial_state(
    model: Model,
    shape_or_x: Sequence[int] | Tensor,
    seed: int | Sequence[int] | Tensor,
    sample_ids: Sequence[int] | Tensor | None,
    device: torch.device | str | None,
    dtype: torch.dtype,
    start: float,
    guidance: Guidance | None = None,
    data: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The state at time ``start`` as `Sampler.__call__` says it, with the seeds and the ids.

    Scales of ``guidance`` that are per sample must fit the batch. ``mask``: of the noise, see
    `fastgen.randn`.
    """
    if data is not None:
        check_floating("data", data)
    if device is None:
        given = shape_or_x if isinstance(shape_or_x, Tensor) else data
        device = model.device if given is None else given.device
    device = check_device("device", device)
    if isinstance(shape_or_x, Tensor):
        shape = tuple(shape_or_x.shape)
    else:
        shape = check_sizes("shape_or_x", shape_or_x, "a shape [B, ...] or a state")
    if guidance is not None:
        guidance.check_batch(shape)
    if not shape:
        raise ValueError("shape_or_x: expected [B, ...], got a state without axes")
    seeds = seed_tensor(seed, shape[0], device)
    if sample_ids is None and device.type == "cpu":  # a GPU's streams would wait for what is kept
        ids = ids_in_order(shape[0], device)
    else:
        ids = id_tensor(sample_ids, shape[0], device)
    if isinstance(shape_or_x, Tensor):
        if data is not None:
            raise ValueError("data: the state is given already; pass its shape instead of it")
        if not shape_or_x.is_floating_point():
            raise ValueError(f"shape_or_x: the initial state must be real, got {shape_or_x.dtype}")
        return shape_or_x.to(device=device, dtype=dtype).contiguous(), seeds, ids
    if data is None:
        check_start(model.schedule, start)
    elif data.shape not in (shape, (1, *shape[1:])):
        raise ValueError(f"data: expected {shape}, or 1 row for all, got {tuple(data.shape)}")
    z = normals(shape, seeds, ids, 0, dtype=dtype, mask=mask).mul_(model.schedule.sigma(start))
    if data is None:
        return z, seeds, ids
    return z + model.schedule.alpha(start) * data.to(device=device, dtype=dtype), seeds, ids
