"""The runs that a fit or a race learns from: noise of the contract, conditioning, a fine solve."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgen.common.checks import check_positive, check_sizes, check_whole
from fastgen.common.display import displayed
from fastgen.common.errors import nearest
from fastgen.fitting.rows import Rows
from fastgen.kernels.contract import Stream
from fastgen.model.guidance import Guidance, check_guidance
from fastgen.model.model import Instant, Model
from fastgen.noise.keys import id_tensor, seed_tensor
from fastgen.noise.normals import normals
from fastgen.ode import tableaus
from fastgen.plans import Plan
from fastgen.plans.forms import Normal
from fastgen.sampling.prepared import check_state_dtype
from fastgen.sampling.sample import sample
from fastgen.sampling.sampler import Sampler
from fastgen.solvers import get, names

TEACHER = "unipc"
# Keyword arguments of the network: the same for every batch, or a function of its sample ids [B].
Conditioning = Mapping[str, Any] | Callable[[Tensor], Mapping[str, Any]]


class Errors(NamedTuple):
    """Distances to a reference: rms over all samples and elements, and of the median sample.

    Few samples that end in another mode carry the rms; the median says how all the others do.
    """

    rms: float
    median: float

    @classmethod
    def between(cls, x: Sequence[Tensor], y: Sequence[Tensor]) -> Errors:
        """Of batches of states from others."""
        rows = [
            (a.double() - b.double()).flatten(1).square().mean(1) for a, b in zip(x, y, strict=True)
        ]
        squares = torch.cat(rows)
        return cls(float(squares.mean().sqrt()), float(squares.median().sqrt()))

    def __str__(self) -> str:
        return f"{self.rms:.4g} (median {self.median:.3g})"


@displayed
@dataclass(frozen=True)
class Settings:
    """What is run: how many samples of what, on which noise, against which teacher.

    See `fastgen.race` for the meaning of each.

    Raises:
        ValueError: naming the argument.
    """

    shape: Sequence[int]
    batch: int
    seed: int
    guidance: Guidance | None
    net_kwargs: Conditioning | None
    dtype: torch.dtype
    teacher: str
    teacher_steps: int
    rtol: float

    def __post_init__(self) -> None:
        shape = check_sizes("shape", self.shape, "the shape of one sample")
        if not all(shape):
            raise ValueError(f"shape={self.shape!r}: a sample without elements has no error")
        object.__setattr__(self, "shape", shape)
        check_whole("batch", self.batch, 1)
        check_guidance(self.guidance)
        if self.guidance is not None:
            self.guidance.check_forgets("a teacher")
        check_state_dtype(self.dtype)
        known = (*names(stochastic=False), *tableaus.ADAPTIVE)
        if self.teacher not in known:
            raise ValueError(f"teacher={self.teacher!r}: {nearest(self.teacher, known)}")
        check_whole("teacher_steps", self.teacher_steps, 6)
        check_positive("rtol", self.rtol)

    def check_samples(self, name: str, count: int, least: int = 1) -> None:
        """Refuse numbers of samples that are too few, or no whole batches."""
        check_whole(name, count, least)
        if count % self.batch:
            raise ValueError(
                f"{name}={count}: expected a multiple of batch={self.batch}, as guidance and "
                "conditioning have a row for each sample of a batch"
            )


class Batch:
    """One batch: its noise, its conditioning, and what the teacher makes of them."""

    def __init__(self, study: Study, first: int) -> None:
        settings, device = study.settings, study.model.device
        ids = range(first, first + settings.batch)
        self.ids = id_tensor(ids, settings.batch, device)
        self.seeds = seed_tensor(settings.seed, settings.batch, device)
        self.shape = (settings.batch, *settings.shape)
        given = settings.net_kwargs
        self.net_kwargs = dict(given(self.ids) if callable(given) else given or {})
        self.z = normals(self.shape, self.seeds, self.ids, 0, dtype=settings.dtype)
        self.dtype = settings.dtype
        self.targets: list[Tensor] = []
        self.coarse: list[Tensor] = []

    def noise(self, normal: Normal | None) -> Tensor | float:
        """The contract's noise of a draw."""
        if normal is None:
            return 0.0
        draw, stream = normal.draw, Stream.SOLVER
        return normals(self.shape, self.seeds, self.ids, draw, stream, self.dtype)


class Study:
    """A model, its teacher and some batches of noise."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.settings, self.schedule = model, settings, model.schedule

    def batches(self, count: int, first: int = 0) -> list[Batch]:
        """Batches of ``count`` samples in all, with the ids from ``first`` on."""
        size = self.settings.batch
        return [Batch(self, first + k * size) for k in range(count // size)]

    def run(self, plan: Plan, batch: Batch) -> Tensor:
        """What a plan makes of a batch."""
        sampler = self.sampler(plan)
        x = batch.z * self.schedule.sigma(float(plan.times[0]))
        found: Tensor = sampler(
            x, seed=batch.seeds, sample_ids=batch.ids, net_kwargs=batch.net_kwargs
        )
        return found

    def sampler(self, plan: Plan) -> Sampler:
        """A sampler of the model, guided as asked."""
        settings = self.settings
        return Sampler(self.model, plan, guidance=settings.guidance, dtype=settings.dtype)

    def prediction(
        self,
        quantity: str,
        x: Tensor,
        t: float,
        batch: Batch,
        clip: tuple[float, float] | None = None,
    ) -> Tensor:
        """One quantity at states x of a batch, guided and clipped as a plan's evaluation is.

        Autograd sees it as a function of x.
        """
        model, guidance = self.model, self.settings.guidance
        p, q = model.parametrisation.conversion(quantity, t)
        which = model.parametrisation.output(quantity)
        scaled = (x * model.parametrisation.input_scale(t)).to(model.input_dtype(x.dtype))
        (times,) = model.times([Instant(t)], len(x), x.device)
        output = model.outputs(scaled, times, batch.net_kwargs)[which]
        if guidance is not None and guidance.active(t):
            output = guidance.around(
                output,
                batch.net_kwargs,
                lambda kwargs, net: model.outputs(scaled, times, kwargs, net=net)[which],
                t,
            )
        elif model.reuses_output:
            output = output.clone()
        found: Tensor = q * output.to(x.dtype)
        found = found + p * x if p else found
        return found if clip is None else found.clamp(*clip)

    def advance(self, x: Tensor, s: float, t: float, batch: Batch, fine: bool = True) -> Tensor:
        """The teacher: where the probability flow takes states from time s to t.

        fine: with all its accuracy, or, to measure its error, with half the steps or ten times
        the tolerance.
        """
        settings = self.settings
        options: dict[str, Any] = {"guidance": settings.guidance, "dtype": settings.dtype}
        options |= {"net_kwargs": batch.net_kwargs}
        if settings.teacher in tableaus.ADAPTIVE:
            middle = self._regular_end(t, fine)
            if middle < s:
                rtol = settings.rtol * (1 if fine else 10)
                adaptive = options | {"rtol": rtol, "atol": rtol, "start": s, "end": middle}
                x = sample(self.model, x, settings.teacher, None, **adaptive)
                s = middle
            if s > t:
                x = sample(self.model, x, "ddim", timesteps=[s, t], **options)
            return x
        steps = settings.teacher_steps if fine else settings.teacher_steps // 2
        times = self._between(s, t, steps, fine)
        found: Tensor = sample(self.model, x, settings.teacher, timesteps=times, **options)
        return found

    def _between(self, s: float, t: float, steps: int, fine: bool) -> list[float]:
        """Times from s to t even in log-SNR; where that is infinite the last interval is another.

        At alpha = 0 the first is as long as even ones in t would be; the last before sigma = 0
        begins at `_last`.
        """
        schedule, first, last = self.schedule, s, t
        if not math.isfinite(schedule.half_log_snr(s)):
            first = s + (t - s) / steps
        if not math.isfinite(schedule.half_log_snr(t)):
            last = min(self._last(fine), s / 10)
        low, high = schedule.half_log_snr(first), schedule.half_log_snr(last)
        count = steps - (first != s) - (last != t)
        inner = [float(schedule.time_at(low + (high - low) * k / count)) for k in range(1, count)]
        own = [first, *inner, last]
        return [*([s] if first != s else []), *own, *([t] if last != t else [])]

    def _last(self, fine: bool) -> float:
        """Where the last step to t = 0 begins, which is of first order.

        Four times as far out where the teacher's error is measured, so that this step counts in it.
        """
        return self.schedule.t_min * (1 if fine else 4)

    def _regular_end(self, t: float, fine: bool) -> float:
        """The last time on the way to t where the velocity can be evaluated."""
        try:
            self.model.parametrisation.conversion("velocity", t)
            self.model.network_time(t)
        except ValueError:
            return max(t, self._last(fine))
        return t

    def teach(self, batches: Sequence[Batch], rows: Rows) -> list[Errors]:
        """Give every batch its states at the rows' times after the first.

        Returns how far the teacher is from exact at each of these times.

        Where a step draws noise of deviation s the state is (alpha_t / alpha_r) x(r) + s z, x(r)
        the flow's state at the time r at which sigma_r / alpha_r = sqrt(sigma_t^2 - s^2) / alpha_t:
        the flow has the marginals of every SDE of the process, so this has that of time t.
        """
        steps = list(zip(rows.times[:-1], rows.times[1:], rows.rows, strict=True))
        for batch in batches:
            fine = coarse = batch.z * self.schedule.sigma(rows.times[0])
            for k, (s, t, row) in enumerate(steps):
                scale, fresh = self.reached(t, row.scale)
                z = row.scale * batch.noise(row.noise)
                if fresh < s:
                    fine = self.advance(fine, s, fresh, batch)
                    coarse = self.advance(coarse, s, fresh, batch, fine=False)
                elif fresh > s:
                    raise ValueError(
                        f"base: step {k} to t={t:.6g} draws more noise than is left from "
                        f"t={s:.6g}; take a solver of the reverse process"
                    )
                fine, coarse = fine * scale + z, coarse * scale + z
                batch.targets.append(fine)
                batch.coarse.append(coarse)
        # With twice the steps an error of order p falls by 2^p; restarts leave 2 of higher ones.
        # One that a tolerance sets is taken as it is.
        order = (
            None if self.settings.teacher in tableaus.ADAPTIVE else get(self.settings.teacher).order
        )
        share = 1 / (2 ** min(order, 2) - 1) if order else 1.0
        found = [
            Errors.between([b.targets[k] for b in batches], [b.coarse[k] for b in batches])
            for k in range(len(steps))
        ]
        for batch in batches:
            batch.coarse.clear()
        return [Errors(e.rms * share, e.median * share) for e in found]

    def reached(self, t: float, noise: float) -> tuple[float, float]:
        """(alpha_t / alpha_r, r): where the flow goes before noise of a deviation is added."""
        if noise == 0:
            return 1.0, t
        schedule = self.schedule
        left = schedule.sigma(t) ** 2 - noise**2
        if left < -1e-9 * schedule.sigma(t) ** 2:
            raise ValueError(
                f"base: a step to t={t:.6g} adds noise of deviation {noise:.4g}, above all that "
                f"is there ({schedule.sigma(t):.4g}); take a solver of the reverse process"
            )
        ratio = math.sqrt(max(left, 0.0)) / schedule.alpha(t)
        r = schedule.time_at_ratio(ratio) if ratio > 0 else 0.0
        return schedule.alpha(t) / schedule.alpha(r), float(r)


@torch.no_grad()
def check_same_output(study: Study, batch: Batch, t: float) -> None:
    """Refuse a network that gives something else for equal inputs: a fit would chase its noise.

    Raises:
        ValueError: saying what to do.
    """
    x = batch.z * study.schedule.sigma(t)
    quantity = _any_quantity(study.model, t)
    first = study.prediction(quantity, x, t, batch)
    again = study.prediction(quantity, x, t, batch)
    if not torch.isfinite(first).all():
        raise ValueError(f"net: it returns numbers that are not finite at t={t:.6g}")
    off = float((first - again).abs().max())
    if off > 1e-4 * float(first.abs().max()):  # some kernels of GPUs add in any order
        raise ValueError(
            f"net: two calls with equal inputs differ by {off:.3g}; switch dropout and other noise "
            "off (net.eval()) before fitting"
        )


def _any_quantity(model: Model, t: float) -> str:
    given = {"edm": "data", "velocity_and_score": "velocity"}
    return given.get(model.predicts, model.predicts)
