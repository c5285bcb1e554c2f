"""`posterior`: samples given an observation, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_sizes
from fastgen.common.devices import check_device
from fastgen.common.error_control import ErrorControlled
from fastgen.common.typed import typed
from fastgen.control.annealing import DAPS, annealed
from fastgen.control.singular import DDRM, restored
from fastgen.control.twisted import Twisted, twisted
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model, check_model
from fastgen.observations import Method, Observation, conditioned
from fastgen.observations.observation import check_observation
from fastgen.sampling.error_controlled import SOLVERS
from fastgen.sampling.sample import AnySolver, sample

# Methods that are more than a data prediction: their own steps, and how they are named.
_OWN_STEPS: dict[str, type[DAPS | DDRM | Twisted]] = {
    "daps": DAPS,
    "ddrm": DDRM,
    "twisted": Twisted,
}


@typed
def posterior(
    model: Model,
    observation: Observation,
    shape: Sequence[int],
    method: str | Method | DAPS | DDRM | Twisted = "mmps",
    solver: AnySolver = "ddpm",
    steps: int | None = None,
    *,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    guidance: Guidance | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tensor:
    """Samples of p(x_0 | y), for a prior model of x_0 and an observation y of it.

    ``posterior(model, fastgen.observations.Mask(known, mask), (16, 3, 64, 64))``. Every method but
    the last three is a correction of the data prediction, so that every solver may follow, and
    `fastgen.observations.conditioned` gives the model itself, to be served or captured.

    * "mmps": products with the network's Jacobian; exact for Gaussian data.
    * "tmpd": two such products; exact for Gaussian data of independent numbers, and a mask.
    * "pigdm", "rtc": one; exact for data N(m, s^2).
    * "dps": one; exact nowhere.
    * "ddnm", "replacement", "diffpir": none; exact nowhere.
    * "repaint": none, but many more evaluations; exact in the limit of many repetitions.
    * "ddrm": none; exact nowhere, but noise of y is told from the state's in each direction.
    * "daps": none, several evaluations a step; exact nowhere, but it forgets its errors.
    * "twisted": one; all samples are one system, exact in the limit of many.

    Args:
        model: of the prior.
        observation: a `Mask`, `Linear` or `Nonlinear` of `fastgen.observations`, of one row for all
            samples or a row for each.
        shape: [B, ...] of the samples.
        method: a name, or an object of `fastgen.observations` or this room with its options.
        solver: as in `fastgen.sample`. "consistency", which draws all noise anew in each step,
            forgets earlier errors where a method is not exact, with samples that are closer
            together than the posterior's.
        steps: of the solver; 100 unless it chooses its own.
        seed, sample_ids, dtype, device: as in `fastgen.sample`.
        guidance: of the prior.
        net_kwargs: for the prior's network.
        **options: those of `fastgen.sample`.

    Returns:
        [B, ...]. Numbers that a hard `Mask` without noise knows are exactly those.

    Raises:
        TypeError, ValueError: for an observation of other shapes, with NaN, that is not what it
            says (a transpose that is none), or that the method does not take.

    Example:
        >>> prior = fastgen.Model(lambda x, t: 0.5 * x, fastgen.schedules.CosineVP(), "data")
        >>> seen = fastgen.observations.Mask(torch.ones(1, 2), torch.tensor([True, False]))
        >>> fastgen.posterior(prior, seen, (4, 2), "replacement", steps=20)[:, 0].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    check_model(model)
    check_observation(observation)
    size = check_sizes("shape", shape)
    place = model.device if device is None else check_device("device", device)
    observation.check_shape(size, dtype, place)
    if steps is None and not (isinstance(solver, ErrorControlled) or solver in SOLVERS):
        steps = 100
    run: dict[str, Any] = {"seed": seed, "sample_ids": sample_ids, "dtype": dtype, "device": place}
    kwargs = dict(net_kwargs or {})
    if isinstance(method, str) and method in _OWN_STEPS:
        method = _OWN_STEPS[method]()
    if isinstance(method, DAPS | DDRM | Twisted):
        name = type(method).__name__
        if solver != "ddpm":
            raise ValueError(f"solver={solver!r}: {name} has steps of its own; leave it out")
        if options:
            raise TypeError(f"{next(iter(options))}: {name} has steps of its own and takes none")
        if guidance is not None:
            raise ValueError(f"guidance: {name} takes none; guide in the network")
        own: Any = {DAPS: annealed, DDRM: restored, Twisted: twisted}[type(method)]
        found = own(model, observation, size, method, steps, kwargs, **run)
        return observation.finish(found)
    if method == "repaint":
        if solver not in ("ddpm", "repaint"):
            raise ValueError(
                f"solver={solver!r}: method='repaint' is method='replacement' with the solver "
                "'repaint'"
            )
        method, solver = "replacement", "repaint"
    given = conditioned(model, observation, method, guidance=guidance)
    kwargs |= observation.rows(size[0])
    found = sample(given, size, solver, steps, net_kwargs=kwargs, **run, **options)
    if isinstance(found, tuple):  # trajectory=True
        return observation.finish(found[0]), found[1]  # type: ignore[return-value]
    return observation.finish(found)
