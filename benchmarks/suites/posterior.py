"""Samples given observations, beside azula: distance to the exact posterior, PSNR, coverage, time.

"25 modes": an exact mixture in 8 dimensions with two observations, sliced W2 of 1000 samples to
exact ones, beside that of two exact sets. "digits": those of scikit-learn with normal noise as an
exact prior, of which a part is known, or what a blur or a mean of four pixels leaves; PSNR of the
mean of 16 samples, and how often the truth lies between the least and the greatest of them (15 / 17
where both are of one law). "photographs": the same of 4096 patches of photographs. "a step": what a
mask adds to a step of DDIM around a network that costs nothing: half of every row of numbers known,
one half of every sample, numbers here and there; and of one half for all samples where what is
known is the same for all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fastgen
from benchmarks.peers import azula, deepinv
from benchmarks.problems.posteriors import (
    SCHEDULE,
    Modes,
    grid_of_modes,
    sliced,
    smooth_digits,
    smooth_patches,
)
from benchmarks.tools.harness import Case, Provider, measured
from benchmarks.tools.rows import Row, recorded, row, show_progress, version_of
from fastgen import observations
from fastgen.common.threads import threads
from fastgen.control import DAPS, DDRM, Twisted, posterior
from fastgen.observations import Linear, Mask, Operator

SUITE, STEPS, COUNT, SEEDS = "posterior", 100, 1000, 3
IMAGE, PATCH = (1, 8, 8), (3, 8, 8)
TRUTHS, SAMPLES, DIGIT_STEPS = 24, 16, 50
Draw = Callable[[int, int], Tensor]
# What the 25 modes are given: the method and its solver; the options are the best of a few.
METHODS: dict[str, tuple[Any, str]] = {
    "mmps": (observations.MMPS(2), "ddpm"),
    "mmps, consistency": (observations.MMPS(2), "consistency"),
    "tmpd": (observations.TMPD(), "ddpm"),
    "tmpd, consistency": (observations.TMPD(), "consistency"),
    "pigdm": (observations.PiGDM(0.5), "ddpm"),
    "dps": (observations.DPS(30.0), "ddpm"),
    "diffpir": (observations.DiffPIR(), "ddpm"),
    "diffpir, consistency": (observations.DiffPIR(), "consistency"),
    "daps": (DAPS(evaluations=1), "ddpm"),
    "ddrm": (DDRM(), "ddpm"),
    "twisted": (Twisted(2.9), "ddpm"),
}
ON_DIGITS = ("mmps", "tmpd", "pigdm", "diffpir", "ddrm", "mmps, consistency")


def modes(quick: bool) -> Iterator[Row]:
    """The mixture of 25."""
    prior, matrix, y, noise = grid_of_modes()
    inverse = torch.linalg.pinv(matrix)
    exact = prior.given(matrix, y, noise, COUNT, 1)
    floor = sliced(prior.given(matrix, y, noise, COUNT, 2), exact)
    model = prior.model(SCHEDULE)
    seen = Linear(lambda x: x @ matrix.T, lambda w: w @ matrix, y=y[None], noise=noise)

    def ours(method: Any, solver: str, seed: int, count: int) -> Tensor:
        shape = (count, prior.dimension)
        own = isinstance(method, DAPS | DDRM | Twisted)
        options: dict[str, Any] = {} if own else {"timesteps": "log_snr"}
        return posterior(model, seen, shape, method, solver, STEPS, seed=seed, **options)

    runs: dict[tuple[str, str], tuple[str, Draw]] = {}
    for name, (method, solver) in METHODS.items():
        runs[name, f"fastgen, {solver}"] = "fastgen-torch", partial(ours, method, solver)
    if version_of("azula") != "unknown":
        given = (lambda x: x @ matrix.T), (lambda w: w @ inverse.T), y, noise, STEPS
        for name, draw in azula.samplers(prior, *given).items():
            runs[name, "azula"] = "azula", draw
    for done, ((name, provider), (package, draw)) in enumerate(runs.items()):
        show_progress(done, len(runs))
        case, shape = f"25 modes, {name}", (COUNT, prior.dimension)
        if recorded(SUITE, case, provider, shape):
            continue
        draw(0, 8)
        errors, seconds = [], []
        for seed in range(1 if quick else SEEDS):
            begun = time.perf_counter()
            x = draw(seed, COUNT)
            seconds.append(time.perf_counter() - begun)
            errors.append(sliced(x, exact))
        options = SUITE, case, provider, package, shape, torch.float32
        yield row(*options, "sliced_w2", "", errors, floor=floor)
        yield row(*options, "time", "s", seconds)


def degraded(shape: tuple[int, ...]) -> dict[str, Operator]:
    """What is left of images."""
    eye = torch.eye(math.prod(shape)).reshape(*shape, -1)
    rows = eye[:, : shape[1] // 2].flatten(0, 2)
    return {
        "upper half": observations.matrix(rows, shape),
        "means of 2 x 2": observations.average_pool(2),
        "blur 1.0": observations.gaussian_blur(1.0, size=5),
    }


def images(name: str, prior: Modes, shape: tuple[int, ...], quick: bool) -> Iterator[Row]:
    """Images restored."""
    noise, n = 0.1, math.prod(shape)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(prior.means), generator=generator)[: 4 if quick else TRUTHS]
    truths = prior.means[chosen]
    truths = truths + prior.std * torch.randn(truths.shape, generator=generator)
    pictures = truths.reshape(-1, *shape)
    flat = prior.model(SCHEDULE)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return flat.net(x.flatten(1), t).reshape(x.shape)

    model = fastgen.Model(net, SCHEDULE, "data", time_dtype=torch.float64)
    for task, operator in degraded(shape).items():
        y = operator(pictures)
        y = y + noise * torch.randn(y.shape, generator=generator)
        matrix = operator(torch.eye(n).reshape(n, *shape)).flatten(1).T.contiguous()

        def ours(name: str, y: Tensor = y, operator: Operator = operator) -> Tensor:
            method, solver = METHODS[name]
            method = observations.MMPS(5) if name.startswith("mmps") else method
            method = observations.PiGDM(0.7) if name == "pigdm" else method
            seen = Linear(operator, y=y.repeat_interleave(SAMPLES, 0), noise=noise)
            drawn = (len(y) * SAMPLES, *shape)
            return posterior(model, seen, drawn, method, solver, DIGIT_STEPS, seed=3)

        def exactly(y: Tensor = y, matrix: Tensor = matrix) -> Tensor:
            drawn = [prior.given(matrix, v.flatten(), noise, SAMPLES, 7) for v in y]
            return torch.cat(drawn)

        def theirs(name: str, y: Tensor = y, matrix: Tensor = matrix) -> Tensor:
            inverse, parts = torch.linalg.pinv(matrix), []
            maps = (lambda z: z @ matrix.T), (lambda w: w @ inverse.T)
            for i, v in enumerate(y):
                made = azula.samplers(prior, *maps, v.flatten(), noise, DIGIT_STEPS)
                parts.append(made[name](i, SAMPLES))
            return torch.cat(parts)

        def deep(name: str, y: Tensor = y, matrix: Tensor = matrix) -> Tensor:
            made = [deepinv.samplers(prior, matrix, v.flatten(), noise, DIGIT_STEPS) for v in y]
            return torch.cat([run[name](i, SAMPLES) for i, run in enumerate(made)])

        runs: list[tuple[str, str, str, Callable[[], Tensor]]] = [
            ("exact", "exact", "fastgen-torch", exactly)
        ]
        runs += [(n, "fastgen", "fastgen-torch", partial(ours, n)) for n in ON_DIGITS]
        if version_of("azula") != "unknown":
            runs += [
                (n, "azula", "azula", partial(theirs, n))
                for n in ("tmpd", "pigdm", "mmps", "diffpir")
            ]
        if version_of("deepinv") != "unknown":
            runs += [(n, "deepinv", "deepinv", partial(deep, n)) for n in ("ddrm", "diffpir")]
        for method, provider, package, draw in runs:
            case, size = f"{name}, {task}, {method}", (len(truths), SAMPLES, n)
            if recorded(SUITE, case, provider, size):
                continue
            x = draw().reshape(size)
            options = SUITE, case, provider, package, size, torch.float32
            error = (x.mean(1) - truths).square().mean(1)
            psnr = 10 * torch.log10(4 / error)
            yield row(*options, "PSNR", "dB", psnr.tolist())
            # Of 16 samples and the truth, in random order, the 17 places are equally likely: the
            # truth lies between the least and the greatest with probability 15 / 17.
            held = (x.amin(1) < truths) & (truths < x.amax(1))
            yield row(*options, "coverage", "", held.float().mean(1).tolist(), floor=15 / 17)


def _step(shape: tuple[int, ...]) -> Case:
    steps, plan = 20, fastgen.plan("ddim", SCHEDULE, 20, start=0.99)
    output = torch.randn(shape)
    model = fastgen.Model(lambda x, t: output, SCHEDULE, "data")
    sides = torch.zeros(shape[1:], dtype=torch.bool)
    sides[..., : shape[-1] // 2] = True
    half = torch.arange(sides.numel()).view(shape[1:]) < sides.numel() // 2
    scattered = torch.rand(shape[1:], generator=torch.Generator().manual_seed(0)) < 0.5
    x, values = torch.randn(shape), torch.randn(shape)
    known = Mask(values, sides)

    def masked(mask: Tensor, values: Tensor = values) -> fastgen.Model:
        return observations.conditioned(model, Mask(values, mask), "replacement")

    def transformed(data: Tensor, t: float) -> Tensor:
        return torch.where(known.mask == 1, known.known, data)

    def run(model: fastgen.Model, transform: Any = None) -> Callable[[], Tensor]:
        sampler = fastgen.Sampler(model, plan, transform=transform)
        return lambda: sampler(x)

    runs = {
        "fastgen, no mask": run(model),
        "fastgen, mask": run(masked(sides)),
        "fastgen, mask, halves": run(masked(half)),
        "fastgen, mask, halves, one for all": run(masked(half, values[:1])),
        "fastgen, mask, scattered": run(masked(scattered)),
        "fastgen, transform": run(model, transformed),
    }
    providers = [Provider(n, r, units=steps, compared=False) for n, r in runs.items()]
    return Case(SUITE, "a step", shape, torch.float32, providers)


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    with threads(1):
        yield from modes(quick)
        yield from images("digits", smooth_digits(), IMAGE, quick)
        yield from images("photographs", smooth_patches(), PATCH, quick)
    shapes: list[tuple[int, ...]] = [(16, 4, 64, 64)]
    shapes += [] if quick else [(1, 4, 64, 64), (64, 3, 32, 32), (256, 2)]
    yield from measured([_step(shape) for shape in shapes], quick)
