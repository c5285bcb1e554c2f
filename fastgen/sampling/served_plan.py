"""Plans in the layout that the rows of a continuous batch share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastgen.common.checks import check_floating
from fastgen.common.devices import upload
from fastgen.plans import Plan
from fastgen.plans.shared_layout import Layout, embed
from fastgen.sampling.beginning import check_start
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.served_guidance import RequestScale, numbers_of, of_request


@dataclass(frozen=True)
class ServedPlan:
    """A plan in the batch's layout on the device, what runs it alone, and sigma at its start.

    merging: what guidance that merges outputs reads of each evaluation.
    """

    prepared: Prepared
    scale: float
    first: Tensor
    first_draws: Tensor
    tables: Tensor
    draws: Tensor
    times: Tensor
    merging: Tensor | None

    @property
    def numbers(self) -> tuple[Tensor, ...]:
        """All that a row has to be told."""
        return self.tables, self.draws, self.times, self.first, self.first_draws

    def beginning(
        self,
        x: Tensor | None,
        data: Tensor | None,
        shape: tuple[int, ...],
        seed: int,
        sample_id: int,
    ) -> Tensor | None:
        """The state [...] that a request begins with; None where it is noise alone."""
        for name, given in (("x", x), ("data", data)):
            if given is not None:
                check_floating(name, given, "[...] without a batch axis", 0)
                if given.shape != shape:
                    expected = tuple(shape)
                    raise ValueError(f"{name}: expected shape {expected}, got {tuple(given.shape)}")
        prepared = self.prepared
        if data is not None:
            begin = (1, *shape) if x is None else x[None]
            return prepared.initial(begin, seed, [sample_id], self.first.device, data[None])[0][0]
        if x is None:
            check_start(prepared.model.schedule, float(prepared.plan.times[0]))
        return x

    @property
    def nfe(self) -> int:
        """Number of network evaluations."""
        return self.prepared.plan.nfe


@dataclass
class Request:
    """One sample that is asked for: its row, its plan, and the batch's step that finishes it."""

    row: int
    embedded: ServedPlan
    due: int


class Place(NamedTuple):
    """A row's part of a batch's memory.

    keys: seed and id. numbers: what is the plan's (see `ServedPlan.numbers`), the last two for
    ``begin``, the call before the first evaluation. position: of the row's next table.
    """

    state: Tensor
    keys: tuple[Tensor, Tensor]
    numbers: tuple[Tensor, ...]
    position: Tensor
    begin: Callable[[list[Tensor]], None]

    def take(self, keys: tuple[Tensor, Tensor], plan: ServedPlan, position: int) -> None:
        """Begin a request whose initial state is there."""
        for own, given in zip((*self.keys, *self.numbers), (*keys, *plan.numbers), strict=True):
            own.copy_(given)
        self.position.fill_(position)
        self.begin([])


def served_plan(
    sampler: Prepared, plan: Plan, scale: RequestScale | None, layout: Layout, device: torch.device
) -> ServedPlan:
    """A plan for requests of that guidance scale; None: the sampler's.

    Raises:
        ValueError: if the plan does not fit the layout, or cannot be served at all.
    """
    prepared = alone(sampler, plan, scale)
    if not plan.nfe:
        raise ValueError(f"plan: {plan.solver!r} evaluates the network nowhere")
    own = layout_of(prepared)
    if layout.join(own) != layout:
        raise ValueError(
            f"plan: {plan.solver!r} with {plan.nfe} evaluations needs {own}, the batch has "
            f"{layout}; pass it to Sampler.serve(..., plans=[...])"
        )
    shared = embed(prepared.program(), layout)
    noises = layout.inputs + (layout.clip is not None)
    columns = [*range(layout.slots), *range(noises, noises + layout.noises)]
    begin = int(layout.clip is not None)
    first = shared.first[begin : begin + layout.outputs, columns][None]
    values = prepared.model.time_values(plan.evaluations)
    times = prepared.model.time_table(values, 1, device)[..., 0]
    length = layout.evaluations + 1
    times = torch.cat([times, times[:, -1:].expand(-1, length - times.shape[1])], 1)
    guidance, merging = prepared.guidance, None
    if guidance is not None and guidance.merges:
        merging = upload(numbers_of(guidance, plan, length), device)
    return ServedPlan(
        prepared,
        prepared.model.schedule.sigma(float(plan.times[0])),
        upload(torch.from_numpy(first.copy()), device),
        upload(torch.from_numpy(shared.first_draws), device),
        upload(torch.from_numpy(shared.tables), device),
        upload(torch.from_numpy(shared.draws), device),
        times,
        merging,
    )


def layout_of(prepared: Prepared) -> Layout:
    """The least layout that the plan fits.

    Raises:
        ValueError: if it cannot be served.
    """
    try:
        return Layout.of(prepared.program())
    except ValueError as error:
        raise ValueError(f"plan: {prepared.plan.solver!r} cannot be served: {error}") from error


def alone(prepared: Prepared, plan: Plan, scale: RequestScale | None) -> Prepared:
    """What runs one request alone."""
    guidance = prepared.guidance
    if guidance is None and scale is not None:
        raise ValueError(f"scale={scale}: the sampler has no guidance")
    if guidance is not None:
        guidance = of_request(guidance, scale)
    return prepared.with_plan(plan, guidance)


def check_servable(prepared: Prepared) -> None:
    """Raise a ValueError for what rows at different steps cannot share."""
    if prepared.transform is not None:
        raise ValueError("transform: rows at different times cannot share one; serve without it")
    if prepared.noise != "draws":
        raise ValueError(f"noise={prepared.noise!r}: only draws can be served")
