"""The Schroedinger bridge between two Gaussians, which is known in closed form.

[SF]2M with the entropic coupling of each minibatch (Tong et al. 2024, arXiv 2307.03672) learns the
bridge of diffusion sigma = 1 from N(-.1, I) to N(.1, I); states simulated by Euler-Maruyama with
100 steps are compared with the truth at 21 times. Run by
`python -m benchmarks.suites.two_dimensional`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.suites.two_dimensional.protocol import SUITE, Protocol
from benchmarks.tools.rows import Row, row
from benchmarks.tools.stacked import Stack, Targets, train
from fastgen.couplings import Sinkhorn
from fastgen.training import paths

CASES = {f"bridge {dims}-D": dims for dims in (5, 20, 50)}
SIGMA, SHIFT = 1.0, 0.1
PATH = paths.Brownian(SIGMA)


def truth(t: float) -> tuple[float, float]:
    """Mean and variance of every coordinate at time t."""
    spread = (1 - t) ** 2 + t**2 + t * (1 - t) * math.sqrt(4 + SIGMA**4)
    return SHIFT * (2 * t - 1), spread


def divergence(x: Tensor, mean: float, variance: float) -> float:
    """KL(N(m, C) | N(mean, variance I)) of the Gaussian fitted to states x [N, d]."""
    x = x.double()
    dims, covariance = x.shape[1], torch.cov(x.T)
    shift = (x.mean(0) - mean).square().sum()
    kl = (covariance.trace() + shift) / variance - dims
    return float(kl + dims * math.log(variance) - torch.logdet(covariance)) / 2


def targets_of_step(seeds: Sequence[int], dims: int, step: int, batch: int) -> Targets:
    """Velocities for all seeds, then scores."""
    velocities, scores = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed << 32 | step)
        x0, x1 = torch.randn(2, batch, dims, generator=generator).unbind(0)
        # Marginals to a hundredth: a sample of 512 knows them no better.
        options = {"tolerance": 1e-2}
        coupling = Sinkhorn(2 * SIGMA**2, "absolute", seed=(seed + 1) << 32 | step, options=options)
        s = PATH.sample(
            x0 - SHIFT,
            x1 + SHIFT,
            coupling=coupling,
            seed=seed,
            step=step,
            targets=("velocity", "noise"),
        )
        velocities.append((s.x_t, s.t, torch.ones_like(s.t), s.velocity))
        scores.append((s.x_t, s.t, paths.drift_weight(PATH, s.t), -s.noise))
    columns = zip(*velocities, *scores, strict=True)
    return Targets(*(torch.stack(column) for column in columns))


def run(
    name: str, protocol: Protocol, folder: Path | None = None, compiled: bool = False
) -> tuple[list[float], dict[str, float]]:
    """The mean divergence of the first seed; also where the seconds went."""
    seeds, steps, points, batch = protocol
    seeds = seeds[:1]  # a step takes an entropic plan for each
    dims, count = CASES[name], len(seeds)
    names = [f"{name} {role} {seed}" for role in ("velocity", "score") for seed in seeds]
    stack = Stack(names, dims)
    seconds = train(
        stack,
        lambda step: targets_of_step(seeds, dims, step, batch),
        steps,
        compiled=compiled,
        checkpoint=None if folder is None else folder / f"{name}.safetensors",
        protocol={"case": name, "seeds": list(seeds), "batch": batch},
        progress=None if folder is None else lambda step, losses: _say(name, step, losses),
    )
    began = time.perf_counter()
    found = simulate(stack, count, dims, points)
    return found, {**seconds, "evaluation": time.perf_counter() - began}


def _say(name: str, step: int, losses: Tensor) -> None:
    print(f"{name}: step {step}, loss {losses.mean():.4f}", flush=True)


def simulate(stack: Stack, count: int, dims: int, points: int) -> list[float]:
    """The mean over 21 times of the divergence, for each of the count drifts in the stack."""
    generator = torch.Generator().manual_seed(99)
    x = torch.randn(count, points, dims, generator=generator) - SHIFT
    sums = [0.0] * count
    with torch.no_grad():
        for i in range(101):
            if i % 5 == 0:
                for k in range(count):
                    sums[k] += divergence(x[k], *truth(i / 100)) / 21
            both = torch.cat([x, x])
            drift = stack(both, torch.full(both.shape[:2], i / 100)).unflatten(0, (2, count)).sum(0)
            x = x + drift / 100 + SIGMA * 0.1 * torch.randn(x.shape, generator=generator)
    return sums


def rows_of(
    name: str, results: Sequence[Any], facts: dict[str, float], protocol: Protocol
) -> list[Row]:
    """Mean and one standard deviation either way, over seeds."""
    shape = (protocol.points, CASES[name])
    mean = statistics.mean(results)
    std = statistics.stdev(results) if len(results) > 1 else 0.0
    case = f"{name}, SF2M-Sink"
    found = row(SUITE, case, "fastgen", "fastgen-torch", shape, torch.float32, "KL", "", results)
    note = "seeds: " + " ".join(f"{v:.5f}" for v in results)
    low, high = (float(f"{mean + sign * std:.5g}") for sign in (-1, 1))
    found = replace(found, median=float(f"{mean:.5g}"), p20=low, p80=high, note=note)
    note = ", ".join(f"{k} {v:.4g}" for k, v in facts.items())
    total = row(
        SUITE,
        name,
        "fastgen",
        "fastgen-torch",
        shape,
        torch.float32,
        "time",
        "s",
        [sum(facts.values())],
        note=note,
    )
    return [found, total]
