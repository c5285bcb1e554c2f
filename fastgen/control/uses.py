"""What a model of data is good for beside samples: cleaning, restoring, scoring, telling apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import (
    check_choice,
    check_floating,
    check_function,
    check_positive,
    check_sizes,
    check_whole,
    rows_of,
)
from fastgen.common.display import displayed, extent
from fastgen.common.modes import unrecorded
from fastgen.common.transforms import BACKWARD, untransformed
from fastgen.common.typed import typed
from fastgen.control.given import posterior
from fastgen.likelihood import log_likelihood
from fastgen.model.model import Model, check_model
from fastgen.noise import randn
from fastgen.observations import Observation
from fastgen.sampling.sample import AnySolver, sample
from fastgen.schedules import DiscreteVP

SCORES = ("likelihood", "denoising", "path_length")
# Levels of noise between which denoising errors are taken, in sigma / alpha.
_CLEAREST, _NOISIEST = 1e-2, 1e2


@typed
def denoise(
    model: Model,
    y: Tensor,
    noise: float,
    *,
    solver: AnySolver = "ddpm",
    steps: int | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tensor:
    """What y = x_0 + noise z was before the noise: its mean E[x_0 | y], by one network call.

    alpha y is a state of the time where sigma / alpha = noise, so no method is needed: the data
    prediction there is the mean, the best guess in squared error, and a run from there draws from
    p(x_0 | y).

    Args:
        model: of the data.
        y: [B, ...], noisy samples.
        noise: the standard deviation of what was added, in the data's units.
        steps: draw from p(x_0 | y) by so many steps of ``solver``; the default is the mean.
        solver, seed, sample_ids, **options: as in `fastgen.sample`, with ``steps``.
        net_kwargs: for the network.

    Raises:
        ValueError: for more noise than the schedule has.

    Example:
        >>> model = fastgen.Model(lambda x, t: 0.5 * x, fastgen.schedules.VE(), "data")
        >>> fastgen.control.denoise(model, torch.ones(1, 2), noise=1.0).tolist()
        [[0.5, 0.5]]
    """
    check_model(model)
    check_floating("y", y)
    check_positive("noise", noise)
    t = _time_of(model, "noise", noise)
    x = model.schedule.alpha(t) * y
    if steps is not None:
        run: dict[str, Any] = {"seed": seed, "sample_ids": sample_ids, "start": t, **options}
        found: Tensor = sample(model, x, solver, steps, net_kwargs=dict(net_kwargs or {}), **run)
        return found
    if options:
        raise TypeError(f"{next(iter(options))}: it has a meaning with steps= only")
    return model.predict("data", x, t, net_kwargs=net_kwargs)


@displayed
@dataclass(frozen=True)
class Restoration:
    """Samples given one observation, and what they say of every number.

    samples: [N, ...]; mean, std: [...] over the samples, of every number.
    """

    samples: Tensor

    def _facts(self) -> dict[str, Any]:
        return {"samples": self.samples, "std": extent(self.std)}

    @property
    def mean(self) -> Tensor:
        """The mean of every number: the best guess in squared error."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """The standard deviation of every number: how much the observation leaves open."""
        return self.samples.std(0)

    def interval(self, probability: float = 0.9) -> tuple[Tensor, Tensor]:
        """The ends of the middle part of the samples of every number, by linear quantiles."""
        if not 0 < probability < 1:
            raise ValueError(f"probability={probability!r}: expected a number in (0, 1)")
        tail = (1 - probability) / 2
        ordered = self.samples.sort(0).values  # torch.quantile takes 2^24 numbers at most
        last = len(ordered) - 1

        def at(share: float) -> Tensor:
            low = min(int(share * last), max(last - 1, 0))
            return ordered[low].lerp(ordered[min(low + 1, last)], share * last - low)

        return at(tail), at(1 - tail)


@typed
def restore(
    model: Model,
    observation: Observation,
    shape: Sequence[int],
    samples: int = 32,
    *,
    batch: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Restoration:
    """Restoration with its uncertainty: many samples of one observation.

    Args:
        model: of the data.
        observation: of one row.
        shape: of one sample, without batch axis.
        samples: N.
        batch: samples of one run; the default is all. Their numbers do not depend on it.
        seed: of all; sample i is drawn again by ``posterior(..., sample_ids=[i])``.
        **options: those of `fastgen.posterior`: ``method``, ``solver``, ``steps`` ...
    """
    check_whole("samples", samples, 2)
    size = check_sizes("shape", shape, "the shape of one sample")
    if "sample_ids" in options:
        raise TypeError("sample_ids: those of a restoration are 0 .. samples - 1")
    for name, x in observation.tensors.items():
        if len(x) != 1:
            raise ValueError(f"observation: {name} has {len(x)} rows; restore one at a time")
    count = samples if batch is None else check_whole("batch", batch, 1)
    parts = []
    for first in range(0, samples, count):
        ids = range(first, min(first + count, samples))
        run = {"seed": seed, "sample_ids": list(ids), **options}
        parts.append(posterior(model, observation, (len(ids), *size), **run))
    return Restoration(torch.cat(parts))


@untransformed(BACKWARD)
def denoising_error(
    model: Model,
    x: Tensor,
    *,
    levels: int = 32,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """The denoising part of the variational bound of -log p(x), nats [B]: lower is likelier.

        1/2 integral over lambda of E |eps - eps^(x_t)|^2,   lambda = log alpha^2 / sigma^2

    (Kingma et al. 2021, arXiv 2107.00630, eq. 17), by levels even in lambda with sigma / alpha
    from .01 to 100, or as far as the schedule goes. What is left out (the two ends) is the same for
    every condition of one x. No gradients are recorded.

    Args:
        model: of the data.
        x: [B, ...].
        levels: network calls.
        seed, sample_ids: of the noise, the same for every model and condition: differences are
            far surer than values.
        net_kwargs: for the network.
    """
    check_model(model)
    check_floating("x", x)
    check_whole("levels", levels, 1)
    schedule = model.schedule
    low = max(_CLEAREST, schedule.ratio(schedule.t_min))
    high = min(_NOISIEST, schedule.ratio(schedule.t_max))
    width = 2 * math.log(high / low) / levels
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    with unrecorded(model.net):
        for i in range(levels):
            ratio = low * (high / low) ** ((i + 0.5) / levels)
            t = _snapped(model, schedule.time_at_ratio(ratio))
            z = randn(
                x.shape, seed=seed, draw=i, sample_ids=sample_ids, dtype=x.dtype, device=x.device
            )
            noisy = schedule.alpha(t) * x + schedule.sigma(t) * z
            found = model.predict("noise", noisy, t, net_kwargs=net_kwargs)
            error = (rows_of(found) - rows_of(z)).double().square().sum(1)
            total = total + width / 2 * error
    return total


@untransformed(BACKWARD)
def path_length(
    model: Model,
    x: Tensor,
    *,
    steps: int = 20,
    net_kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """The length [B] of the way that noise predictions take while x is brought to noise.

    The sum over DDIM's steps to noise of |eps_(i + 1) - eps_i| / sqrt(n), the first-order statistic
    of Heng et al. 2024 (arXiv 2405.11881): data that the model knows take ways of their own length,
    others shorter or longer ones. No gradients are recorded.
    """
    check_model(model)
    check_floating("x", x)
    check_whole("steps", steps, 1)
    schedule = model.schedule
    low, high = (schedule.ratio(t) for t in (schedule.t_min, schedule.t_max))
    low, high = max(low, _CLEAREST), min(high, _NOISIEST)
    ratios = [low * (high / low) ** (i / steps) for i in range(steps + 1)]
    times = [_snapped(model, schedule.time_at_ratio(r)) for r in ratios]
    length = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    with unrecorded(model.net):
        x, before = schedule.alpha(times[0]) * x, None
        for s, t in [*pairwise(times), (times[-1], None)]:
            noise = model.predict("noise", x, s, net_kwargs=net_kwargs)
            if before is not None:
                moved = (rows_of(noise) - rows_of(before)).double()
                length = length + moved.square().mean(1).sqrt()
            before = noise
            if t is not None:
                grown = schedule.ratio(t) - schedule.ratio(s)
                x = schedule.alpha(t) * (x / schedule.alpha(s) + grown * noise)
    return length


@typed
def anomaly_score(
    model: Model,
    x: Tensor,
    score: str = "denoising",
    *,
    reference: Tensor | None = None,
    net_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tensor:
    """How unlike the model's data each sample is, [B]: higher is stranger.

    * "denoising": `denoising_error`, ``levels=32`` calls (Graham et al. 2023, arXiv 2211.07740).
    * "likelihood": -log p(x) by `fastgen.log_likelihood`, whose options it takes.
    * "path_length": `path_length`, ``steps=20`` calls; only with ``reference``.

    With a reference, how many of its standard deviations a score is away from its mean, to either
    side: smooth pictures have a high likelihood under models of others (Nalisnick et al. 2019,
    arXiv 1810.09136), which is strange too.

    Args:
        model: of what is usual.
        x: [B, ...].
        score: one of those.
        reference: [N, ...] usual samples.
        net_kwargs: for the network; with a reference, what both share.
        **options: of the score.
    """
    check_model(model)
    check_floating("x", x)
    check_choice("score", score, SCORES)
    if score == "path_length" and reference is None:
        raise ValueError(
            "reference: a path may be strange for being short or long; give usual samples"
        )

    def raw(x: Tensor) -> Tensor:
        if score == "likelihood":
            log_p: Tensor = log_likelihood(model, x, net_kwargs=net_kwargs, **options)
            return -log_p.double()
        if score == "path_length":
            return path_length(model, x, net_kwargs=net_kwargs, **options)
        return denoising_error(model, x, net_kwargs=net_kwargs, **options)

    found = raw(x)
    if reference is None:
        return found
    check_floating("reference", reference)
    usual = raw(reference)
    if len(usual) < 2 or not float(usual.std()) > 0:
        raise ValueError(f"reference: expected at least 2 samples that differ, got {len(usual)}")
    return (found - usual.mean()).abs() / usual.std()


@typed
def class_posterior(
    model: Model,
    x: Tensor,
    classes: int,
    arguments: Callable[[Tensor], Mapping[str, Any]],
    score: str = "denoising",
    *,
    prior: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """p(class | x), [B, K], of a model that is told the class: Bayes' rule on its likelihoods.

    "denoising" takes the bound of each class with the same noise (diffusion classifiers, Li et al.
    2023, arXiv 2303.16203), "likelihood" the log-density of the flow, whose options follow.

    Args:
        model: of p(x | class).
        x: [B, ...].
        classes: K.
        arguments: from labels [B] to the network's arguments, ``lambda c: {"labels": c}``.
        score: "denoising" or "likelihood".
        prior: [K], how frequent the classes are; the default is equally.
        **options: of `denoising_error` or `fastgen.log_likelihood`.
    """
    check_model(model)
    check_floating("x", x)
    check_whole("classes", classes, 1)
    check_function("arguments", arguments)
    check_choice("score", score, ("denoising", "likelihood"))
    logits = torch.zeros(len(x), classes, dtype=torch.float64, device=x.device)
    if prior is not None:
        if prior.shape != (classes,) or not bool((prior >= 0).all() & (prior.sum() > 0)):
            raise ValueError(f"prior: expected {classes} weights >= 0, got {list(prior.shape)}")
        logits = logits + prior.to(logits).log()
    for c in range(classes):
        labels = torch.full((len(x),), c, device=x.device)
        kwargs = dict(arguments(labels))
        if score == "likelihood":
            logits[:, c] += log_likelihood(model, x, net_kwargs=kwargs, **options).double()
        else:
            logits[:, c] -= denoising_error(model, x, net_kwargs=kwargs, **options)
    return logits.softmax(1)


def _time_of(model: Model, name: str, ratio: float) -> float:
    """The time where sigma / alpha is a number, or an error."""
    schedule = model.schedule
    most = schedule.ratio(schedule.t_max)
    if ratio > most:
        raise ValueError(f"{name}={ratio!r}: {schedule!r} has at most sigma / alpha = {most:.6g}")
    return _snapped(model, schedule.time_at_ratio(ratio))


def _snapped(model: Model, t: float) -> float:
    """The time nearest to t at which the network may be called."""
    schedule = model.schedule
    if model.time_dtype.is_floating_point or not isinstance(schedule, DiscreteVP):
        return float(t)
    return float(schedule.time_of_index(max(round(schedule.index_of_time(t)), 0)))
