"""RF-inversion: data to noise and back, with a control that pulls to given noise and given data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_floating, check_number
from fastgen.common.typed import typed
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model, check_model
from fastgen.noise.normals import randn
from fastgen.sampling.inversion import deterministic_pair
from fastgen.sampling.sampler import Sampler
from fastgen.solvers import Solver
from fastgen.timesteps import Grid


@typed
def rf_inversion(
    model: Model,
    x: Tensor,
    steps: int | None = 28,
    *,
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    source_guidance: Guidance | None = None,
    target_guidance: Guidance | None = None,
    gamma: float = 0.5,
    eta: float | Callable[[float], float] = 0.9,
    until: float = 0.75,
    solver: str | Solver[...] = "euler",
    timesteps: str | Grid[...] | Sequence[float] = "uniform",
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Edit data through its noise (RF-inversion, Rout et al. 2024, arXiv 2410.10792, Alg. 1 and 2).

    On the way to noise the velocity is (1 - gamma) v(x_t, t; source) + gamma (z - x_t) / (1 - t),
    the second that of the straight way to a typical noise z; on the way back (1 - eta) v(x_t, t;
    target) + eta (x_t - x) / t, the second that of the straight way to x, which keeps the picture,
    at times above ``until``. In the words of data predictions D, on any schedule,

        there D <- (1 - gamma) D + gamma (x_t - sigma z) / alpha,    back D <- (1 - eta) D + eta x,

    so that any deterministic solver may take the steps. With gamma = eta = 0 it is plain
    inversion; with gamma = 1 the noise is z; with eta = 1 and until = 0 the result is x.

    Args:
        model: the network and what it means.
        x: data [B, ...], in the network's range.
        steps: of each direction; None with given times.
        source, target: the network's keyword arguments, of x (for text the empty one will do) and
            of what it should become.
        source_guidance, target_guidance: of each.
        gamma: in [0, 1], how strongly the noise is made typical.
        eta: in [0, 1], how strongly x is kept, or a function of the time.
        until: in [0, 1], the time at which x is no longer kept, on the way from 1 to 0. Below it
            the network alone makes the details.
        solver: of both directions, deterministic.
        timesteps: a grid, or falling times.
        seed, sample_ids: of z, which is `fastgen.randn` of x's shape.
        dtype: of the states.

    Returns:
        The edited data [B, ...].

    Raises:
        TypeError, ValueError: naming the argument; for a solver that draws noise or has no step
            back.

    Example:
        >>> def net(x, t, mean):  # the velocity of data that are all `mean`
        ...     return (x - mean) / t.reshape(-1, 1)
        >>> model = fastgen.Model(net, fastgen.schedules.Rectified(), predicts="velocity")
        >>> sides = {"source": {"mean": 0.0}, "target": {"mean": 2.0}}
        >>> x = fastgen.rf_inversion(model, torch.zeros(1, 1), 4, eta=0.5, until=0.0, **sides)
        >>> round(x.item(), 2)
        1.0
    """
    check_model(model)
    check_floating("x", x)
    for name, value in (("gamma", gamma), ("until", until)):
        if not 0 <= check_number(name, value) <= 1:
            raise ValueError(f"{name}={value!r}: expected a number in [0, 1]")
    if not callable(eta):
        _share(eta)
    schedule = model.schedule
    grid: dict[str, Any] = {"timesteps": timesteps, "predicts": model.predicts}
    there, back = deterministic_pair(schedule, solver, steps, schedule.t_min, grid)
    x = x.to(dtype)
    z = randn(tuple(x.shape), seed=seed, sample_ids=sample_ids, dtype=dtype, device=x.device)

    def to_noise(data: Tensor, t: float, state: Tensor) -> Tensor:
        alpha = schedule.alpha(t)
        if alpha == 0:  # nothing of the data is left in the state
            return data
        return torch.lerp(data, (state - schedule.sigma(t) * z) / alpha, gamma)

    def to_data(data: Tensor, t: float) -> Tensor:
        if t < until:
            return data
        return torch.lerp(data, x, _share(eta(t)) if callable(eta) else eta)

    options: dict[str, Any] = {"dtype": dtype}
    forwards = Sampler(model, there, guidance=source_guidance, transform=to_noise, **options)
    backwards = Sampler(model, back, guidance=target_guidance, transform=to_data, **options)
    latent: Tensor = forwards(x, net_kwargs=dict(source))
    found: Tensor = backwards(latent, net_kwargs=dict(target))
    return found


def _share(eta: Any) -> float:
    if not 0 <= check_number("eta", eta) <= 1:
        raise ValueError(f"eta={eta!r}: expected a number in [0, 1], or a function that gives one")
    return float(eta)
