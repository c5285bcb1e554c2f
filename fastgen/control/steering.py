"""Steering: samples of a high reward, by particles that are drawn anew among themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import (
    check_choice,
    check_fraction,
    check_function,
    check_pair,
    check_sizes,
    check_whole,
)
from fastgen.common.devices import check_device
from fastgen.common.display import displayed, extent
from fastgen.common.modes import unrecorded
from fastgen.common.transforms import BACKWARD, untransformed
from fastgen.common.typed import typed
from fastgen.control.particles import (
    HIGH_BITS,
    LOW_BITS,
    POTENTIALS,
    Particles,
    Reward,
    Scale,
)
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model
from fastgen.model.transforms import Transform
from fastgen.noise.keys import id_tensor, seed_tensor
from fastgen.plans import Plan
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.selected import run_selected, selectable


@displayed
@dataclass(frozen=True, eq=False)
class Steered:
    """B systems of P particles, their weights, and where each came from.

    samples: [B, P, ...]. rewards: [B, P], of the samples. log_weights: [B, P], not normalised.
    log_evidence: [B], log of an estimate without bias of E[exp(scale r(x_0))] over the samples of
    the plan. chosen: [B], the particle drawn by the weights.

    Of the n points at which particles could be drawn anew: times (n of them); effective: [n, B],
    the effective number of particles there; ancestors: [n, B, P], the place from which each place
    went on; sample_ids: [n + 1, B, P], under which each place's noise was drawn before the first
    point, between points, and after the last.
    """

    samples: Tensor
    rewards: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    chosen: Tensor
    times: tuple[float, ...]
    effective: Tensor
    ancestors: Tensor
    sample_ids: Tensor
    _again: _Again = field(repr=False)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"samples": self.samples, "rewards": extent(self.rewards)}
        facts |= {"log_evidence": self.log_evidence, "points": len(self.times)}
        return facts | {"anew": int((self.sample_ids.diff(dim=0) != 0).any(2).sum())}

    @property
    def weights(self) -> Tensor:
        """[B, P], which add up to 1 over the particles."""
        return self.log_weights.softmax(1)

    @property
    def best(self) -> Tensor:
        """[B, ...], the particles of the highest reward."""
        return self._of(self.rewards.argmax(1))

    @property
    def drawn(self) -> Tensor:
        """[B, ...], one particle of each system, drawn by the weights."""
        return self._of(self.chosen)

    def _of(self, places: Tensor) -> Tensor:
        return self.samples[torch.arange(len(places), device=places.device), places]

    @property
    def lineage(self) -> Tensor:
        """[n + 1, B, P]: the ids under which the noise of each particle that is left was drawn."""
        place = torch.arange(self.rewards.shape[1], device=self.ancestors.device)
        place = place.expand(self.rewards.shape)
        found = [self.sample_ids[-1]]
        for ancestors, ids in zip(
            self.ancestors.flip(0), self.sample_ids[:-1].flip(0), strict=True
        ):
            place = ancestors.gather(1, place)
            found.append(ids.gather(1, place))
        return torch.stack(found[::-1])

    def redraw(self, sample: int, particle: int) -> Tensor:
        """One particle [...] again from the noise contract alone, without the others.

        It is a run of one row under the ids of `lineage`: no reward is asked for, and the result is
        the same bit for bit if the network treats rows alike and apart.
        """
        check_whole("sample", sample, 0, self.rewards.shape[0] - 1)
        check_whole("particle", particle, 0, self.rewards.shape[1] - 1)
        return self._again(sample, self.lineage[:, sample, particle])


@dataclass(frozen=True, eq=False)
class _Again:
    """What a run alone needs: the model and plan, what the samples were given, and the points."""

    model: Model
    plan: Plan
    options: tuple[Guidance | None, Transform | None, torch.dtype, str | None]
    arguments: Mapping[str, Any]
    shape: tuple[int, ...]
    seeds: Tensor
    points: tuple[int, ...]

    def prepared(self, rows: Tensor) -> tuple[Prepared, dict[str, Any]]:
        """For rows [A] of the batch: what is ready for them, and their arguments."""
        guidance, transform, dtype, backend = self.options
        batch, declared = self.shape[0], self.model.declared
        if guidance is not None:
            guidance = guidance.of_rows(rows)
            guidance = guidance.with_arguments(lambda kw: declared.taken(kw, rows, batch))
        made = Prepared(self.model, self.plan, guidance, transform, "draws", dtype, backend)
        return made, declared.taken(self.arguments, rows, batch)

    def __call__(self, sample: int, ids: Tensor) -> Tensor:
        row = torch.tensor([sample], device=ids.device)
        prepared, arguments = self.prepared(row)
        seeds = self.seeds[row] if len(self.seeds) > 1 else self.seeds
        start = prepared.initial((1, *self.shape[1:]), seeds, ids[:1], ids.device)
        only, after = torch.zeros_like(row), dict(zip(self.points, ids[1:], strict=True))

        def follow(k: int, data: Tensor) -> tuple[Tensor, Tensor]:
            return only, after[k][None]

        return run_selected(prepared, start, arguments, self.points, follow)[0]


@typed
def steer(
    model: Model,
    plan: Plan,
    reward: Reward,
    shape: Sequence[int],
    particles: int = 8,
    *,
    resample: float = 0.5,
    potential: str = "difference",
    scale: Scale = 1.0,
    every: int = 1,
    interval: tuple[float, float] = (0.0, 1.0),
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    guidance: Guidance | None = None,
    transform: Transform | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
) -> Steered:
    """Samples of p(x_0) exp(scale r(x_0)) / Z, where p is what the plan draws from.

    Feynman-Kac steering (Singhal et al. 2025, arXiv 2501.06848; Wu et al. 2023, arXiv 2306.17775):
    each sample is a system of P particles, which are weighed on the way by the reward of their data
    predictions D(x_t). Where the weights' effective number falls below ``resample`` of P, the
    particles are drawn anew by their weights (systematic resampling), each with an id of its own in
    the noise contract, so that their futures differ. With L(x_t) = scale r(D(x_t)) the weights are
    multiplied, at the points t_1 > t_2 > ... and at last at x_0, by

    * "difference": exp(L(t_i) - L(t_(i - 1))), with L(t_0) = 0, for rewards that rise.
    * "max": exp(max over j <= i of L(t_j)), for high rewards that do not last.
    * "sum": exp(sum over j <= i of L(t_j)), for rewards that were high long.

    and the last factor makes up for all: their product is exp(scale r(x_0)). So weighted averages
    are those of the target as P grows, and the estimate of Z is without bias for every P. Network
    evaluations are those of P B samples; the reward is asked for all of them at every point.

    Args:
        model: the network and what it means.
        plan: of a solver that adds noise; any, multistep ones included.
        reward: samples [B P, ...] to finite numbers [B P]; those of sample b are rows b P to
            b P + P - 1. It needs no gradient.
        shape: [B, ...].
        particles: P, of each sample.
        resample: in (0, 1]: below this part of P.
        potential: see above.
        scale: a number; or a function of time, whose value at the plan's end is the target's.
        every: of the points at which particles can be drawn anew, every so many.
        interval: (low, high), the times of points that are used.
        seed: one for the run or one for each sample.
        sample_ids: B ids, by default 0 .. B - 1. Systems do not depend on each other.
        guidance, transform: as in `Sampler`: part of what the plan draws from.
        dtype, device, backend: as in `Sampler`.
        net_kwargs: for the network. Tensors whose first axis is B have a row for each sample,
            unless ``Model(shared=...)`` names them.

    Raises:
        ValueError: for plans without noise, and rewards that are not finite or of another shape.

    Example:
        >>> schedule = fastgen.schedules.CosineVP()
        >>> model = fastgen.Model(lambda x, t: 0.5 * x, schedule, "data")
        >>> plan = fastgen.plan("ddpm", schedule, steps=20)
        >>> found = fastgen.steer(model, plan, lambda x: x.sum(1), (4, 2), scale=3.0)
        >>> bool((found.drawn.mean(0) > 0).all())
        True
    """
    check_pair("interval", interval)
    check_fraction("resample", resample)
    check_choice("potential", potential, POTENTIALS)
    check_whole("every", every, 1)

    def points(prepared: Prepared) -> list[int]:
        times = [e.time for e in plan.evaluations]
        low, high = interval
        found = [k for k in selectable(prepared) if low <= times[k] <= high][::every]
        if len(found) >= 2**HIGH_BITS:
            raise ValueError(
                f"every={every}: {len(found)} points, ids have room for {2**HIGH_BITS - 1}"
            )
        if not found:
            raise ValueError(f"interval={interval!r}: no step of the plan lies in it")
        return found

    options = guidance, transform, dtype, backend
    given = seed, sample_ids, device, net_kwargs
    weighing = reward, potential, scale, resample
    return _system(model, plan, shape, particles, "particles", options, given, points, weighing)


@typed
def best_of(
    model: Model,
    plan: Plan,
    reward: Reward,
    shape: Sequence[int],
    n: int = 8,
    *,
    scale: float = 1.0,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    guidance: Guidance | None = None,
    transform: Transform | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
) -> Steered:
    """n samples for each that is wanted, and their rewards: ``best_of(...).best`` is the best.

    As many evaluations as `steer` with so many particles, none of which is ever drawn anew: any
    plan will do. They begin with the same noise, which is that of the samples s n .. s n + n - 1.

    Args:
        model, plan, reward, shape: as in `steer`.
        n: samples for each.
        scale: in the weights and the evidence.
        seed, sample_ids, guidance, transform, dtype, device, backend, net_kwargs: as in `steer`.

    Example:
        >>> schedule = fastgen.schedules.CosineVP()
        >>> model = fastgen.Model(lambda x, t: 0.5 * x, schedule, "data")
        >>> plan = fastgen.plan("dpmpp_2m", schedule, steps=10)
        >>> fastgen.best_of(model, plan, lambda x: x.sum(1), (4, 2), n=16).best.shape
        torch.Size([4, 2])
    """
    options = guidance, transform, dtype, backend
    given = seed, sample_ids, device, net_kwargs
    weighing = reward, "difference", scale, 1.0
    return _system(model, plan, shape, n, "n", options, given, lambda prepared: [], weighing)


@untransformed(BACKWARD)
def _system(
    model: Model,
    plan: Plan,
    shape: Sequence[int],
    count: int,
    name: str,
    options: tuple[Guidance | None, Transform | None, torch.dtype, str | None],
    given: tuple[Any, Any, Any, Mapping[str, Any] | None],
    points: Callable[[Prepared], list[int]],
    weighing: tuple[Reward, str, Scale, float],
) -> Steered:
    """B systems of ``count`` particles, drawn anew at the points."""
    seed, sample_ids, device, net_kwargs = given
    reward, potential, scale, resample = weighing
    check_function("reward", reward)
    check_whole(name, count, 1)
    size = check_sizes("shape", shape)
    own = Prepared(model, plan, *options[:2], "draws", *options[2:])  # with its errors
    place = model.device if device is None else check_device("device", device)
    batch = size[0]
    if options[0] is not None:
        options[0].check_batch(size)
    seeds, ids = seed_tensor(seed, batch, place), id_tensor(sample_ids, batch, place)
    if batch and int(ids.max()) >= 2**LOW_BITS // count:
        raise ValueError(
            f"sample_ids: {int(ids.max())} with {name}={count}: ids times {name} must be below "
            f"2^{LOW_BITS}"
        )
    chosen_points = tuple(points(own))
    again = _Again(model, plan, options, net_kwargs or {}, size, seeds, chosen_points)
    rows = torch.arange(batch, device=place).repeat_interleave(count)
    prepared, arguments = again.prepared(rows)
    system = Particles(reward, potential, scale, resample * count, seeds, ids, count)
    system.times = {k: plan.evaluations[k].time for k in chosen_points}
    every_seed = seeds.repeat_interleave(count) if len(seeds) > 1 else seeds
    start = prepared.initial((len(rows), *size[1:]), every_seed, system.ids.flatten(), place)
    x = run_selected(prepared, start, arguments, chosen_points, system.choose)
    with unrecorded(model.net):
        final = system.finish(x, float(plan.times[-1]))
    return Steered(
        x.reshape(batch, count, *size[1:]),
        *final,
        tuple(system.times.values()),
        *system.history(),
        again,
    )
