"""The 2-D tables of the OT-CFM and [SF]2M papers: `python -m benchmarks.two_dimensional`.

Tong et al. 2024 (arXiv 2302.00482, 2307.03672): network [64, 64, 64] with SELU and t concatenated,
AdamW at 1e-3 with weight decay 1e-5, batches of 512, 20 000 steps, Euler with 100 steps, W2 between
10 000 generated and 10 000 test points, and the normalised path energy NPE = |E int |v|^2 dt -
W2^2(q0, q1)| / W2^2(q0, q1). All methods and seeds of a data pair are one stack of networks whose
layers are batched products, so that a step costs what its arithmetic costs.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastgen.couplings import ExactOT, Sinkhorn, wasserstein
from fastgen.training import paths
from fastgen.training.data import eight_gaussians, moons, s_curve

METHODS = ("I-CFM", "OT-CFM", "SF2M-I", "SF2M-Exact")
REFLOW = "rectified flow (2)"
# Mean and standard deviation of W2, then NPE, for each pair.
PUBLISHED = {
    method: [tuple(map(float, cell.split())) for cell in cells.split("|")]
    for method, cells in {
        "I-CFM": ".373 .103 .202|1.557 .407 2.680|.178 .014 .891|.242 .141 .856",
        "OT-CFM": ".303 .043 .031|.601 .027 .015|.130 .016 .083|.144 .028 .027",
        "SF2M-I": ".393 .054 .160|1.482 .151 2.577|.185 .028 .855|.201 .062 .845",
        "SF2M-Exact": ".275 .058 .016|.726 .137 .045|.124 .023 .053|.128 .005 .034",
        REFLOW: ".421 .071 .044|1.525 .330 .203|.283 .045 .130|.345 .079 .099",
    }.items()
}
EXACT = ExactOT()
Draw = Callable[[int, np.random.Generator], np.ndarray]


def _normal(count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((count, 2))


def _wide_moons(count: int, rng: np.random.Generator) -> np.ndarray:
    # Standardised by one deviation for both coordinates: this comes to the tables' W2^2(q0, q1) of
    # 29.5 +- 1.5 (28.1 at 800 points), where one for each gives 18.6.
    return 7 * (moons(count, rng) - np.array([0.5, 0.25])) / 0.707


PAIRS: dict[str, tuple[Draw, Draw]] = {
    "N->8g": (_normal, eight_gaussians),
    "moons->8g": (_wide_moons, lambda n, rng: eight_gaussians(n, rng, 12.0, 1.5)),
    "N->moons": (_normal, lambda n, rng: 2 * moons(n, rng) - 1),
    "N->s-curve": (_normal, lambda n, rng: 1.5 * s_curve(n, rng)),
}


class Stack(nn.Module):
    """K networks [width] * 3 side by side: x [K, B, d], t [K, B] -> [K, B, d]."""

    def __init__(self, count: int, dims: int = 2, width: int = 64) -> None:
        super().__init__()
        sizes = [dims + 1, width, width, width, dims]
        bounds = [1 / math.sqrt(a) for a in sizes[:-1]]  # torch.nn.Linear's
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(count, a, b).uniform_(-bound, bound))
            for a, b, bound in zip(sizes[:-1], sizes[1:], bounds, strict=True)
        )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.empty(count, 1, b).uniform_(-bound, bound))
            for b, bound in zip(sizes[1:], bounds, strict=True)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """All outputs."""
        h = torch.cat([x, t[..., None]], -1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            h = nn.functional.selu(h, inplace=True) if i < last else h
        return h


class Result(NamedTuple):
    """W2 and NPE of one network."""

    pair: str
    method: str
    seed: int
    w2: float
    npe: float


def assignment(x0: Tensor, x1: Tensor) -> Tensor:
    """The rows of x1 that belong to those of x0: exact optimal transport of squared distance."""
    return EXACT(x0, x1)[1]


def wasserstein_squared(a: Tensor, b: Tensor) -> float:
    """W2^2 of two samples of one size."""
    return wasserstein(a, b) ** 2


def _train(
    stack: Stack, batch: Callable[[int], tuple[Tensor, Tensor, Tensor, Tensor]], steps: int
) -> float:
    """Minimise sum_k |scale_k net_k(x, t) - target|^2; seconds."""
    optimiser = torch.optim.AdamW(stack.parameters(), 1e-3, weight_decay=1e-5, fused=True)
    start = time.perf_counter()
    for step in range(steps):
        x, t, scale, target = batch(step)
        loss = (scale[..., None] * stack(x, t) - target).square().mean((1, 2)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return time.perf_counter() - start


def _euler(stack: Stack, x: Tensor, steps: int = 100) -> tuple[Tensor, Tensor]:
    """End points [K, N, 2] and path energies [K] of the K flows from x [K, N, 2]."""
    energy = torch.zeros(len(x))
    with torch.no_grad():
        for i in range(steps):
            v = stack(x, torch.full(x.shape[:2], i / steps))
            energy += v.square().sum(-1).mean(1) / steps
            x = x + v / steps
    return x, energy


def run_pair(
    name: str, seeds: int, steps: int, points: int, batch: int = 512
) -> tuple[list[Result], dict[str, float]]:
    """All methods on one pair of distributions; also where the seconds went."""
    source, target = PAIRS[name]
    rngs = [np.random.default_rng(1000 + seed) for seed in range(seeds)]
    x0_test, x1_test = (
        torch.from_numpy(draw(points, np.random.default_rng(7 + i))).float()
        for i, draw in enumerate((source, target))
    )
    transport = wasserstein_squared(x0_test, x1_test)
    data = [
        [torch.from_numpy(draw(10_000, rng)).float() for draw in (source, target)] for rng in rngs
    ]
    flow, bridge = paths.Linear(), paths.Brownian(1.0)
    torch.manual_seed(0)
    # Velocities of all methods, then the scores of the two stochastic ones.
    stack = Stack((len(METHODS) + 2) * seeds)
    clock = {"pairing": 0.0}

    def draw_batch(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        parts: list[list[tuple[Tensor, ...]]] = [[] for _ in range(len(METHODS) + 2)]
        for seed, (x0, x1) in enumerate(data):
            generator = torch.Generator().manual_seed(seed << 32 | step)
            i, j = torch.randint(10_000, (2, batch), generator=generator)
            began = time.perf_counter()
            paired = j[assignment(x0[i], x1[j])]
            clock["pairing"] += time.perf_counter() - began
            for k, index in enumerate((j, paired)):
                options = {"seed": seed, "step": step, "pairs": (i, index)}
                s = flow.sample(x0, x1, **options)
                parts[k].append((s.x_t, s.t, torch.ones(batch), s.velocity))
                s = bridge.sample(x0, x1, targets=("velocity", "noise"), **options)
                parts[2 + k].append((s.x_t, s.t, torch.ones(batch), s.velocity))
                weight = paths.drift_weight(bridge, s.t)
                parts[4 + k].append((s.x_t, s.t, weight, -s.noise))
        flat = [part for group in parts for part in group]
        x, t, scale, wanted = (torch.stack(column) for column in zip(*flat, strict=True))
        return x, t, scale, wanted

    seconds = {"training": _train(stack, draw_batch, steps)}
    seconds["training"] -= clock["pairing"]
    seconds["pairing"] = clock["pairing"]
    began = time.perf_counter()
    ends, energy = _euler(stack, x0_test.expand(len(METHODS) * seeds + 2 * seeds, -1, -1))
    results = []
    order = ("I-CFM", "OT-CFM", "SF2M-I", "SF2M-Exact")
    for k, method in enumerate(order):
        for seed in range(seeds):
            n = k * seeds + seed
            w2 = wasserstein_squared(ends[n], x1_test) ** 0.5
            npe = abs(float(energy[n]) - transport) / transport
            results.append(Result(name, method, seed, w2, npe))
    seconds["evaluation"] = time.perf_counter() - began

    # The second round of rectified flow, on the pairs of the first, which is I-CFM.
    starts = torch.stack([x0 for x0, _ in data])
    first = Stack(seeds)
    with torch.no_grad():
        for mine, all_of_them in zip(first.parameters(), stack.parameters(), strict=True):
            mine.copy_(all_of_them[:seeds])
    images, _ = _euler(first, starts)

    def draw_reflow(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        made = []
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed << 32 | step)
            i = torch.randint(10_000, (batch,), generator=generator)
            made.append(flow.sample(starts[seed], images[seed], seed=seed, step=step, pairs=(i, i)))
        x, t, v = (torch.stack([getattr(s, n) for s in made]) for n in ("x_t", "t", "velocity"))
        return x, t, torch.ones_like(t), v

    second = Stack(seeds)
    seconds["second round"] = _train(second, draw_reflow, steps)
    ends, energy = _euler(second, x0_test.expand(seeds, -1, -1))
    for seed in range(seeds):
        w2 = wasserstein_squared(ends[seed], x1_test) ** 0.5
        npe = abs(float(energy[seed]) - transport) / transport
        results.append(Result(name, REFLOW, seed, w2, npe))
    return results, {"W2^2(q0, q1)": transport, **seconds}


def gaussian_bridge(dims: int, steps: int, points: int, sigma: float = 1.0) -> float:
    """Mean KL over 21 times between the bridge N(-.1, I) -> N(.1, I) and what [SF]2M simulates.

    The truth is N(.2 t - .1, [(1-t)^2 + t^2 + t (1-t) sqrt(4 + sigma^4)] I) in closed form;
    Gaussians are fitted to the simulated states. Euler-Maruyama, 100 steps.
    """
    torch.manual_seed(0)
    stack, path, batch = Stack(2, dims), paths.Brownian(sigma), 512
    coupling = Sinkhorn(2 * sigma**2, "absolute", seed=1)

    def draw(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        x0, x1 = torch.randn(2, batch, dims, generator=generator).unbind(0)
        x0, x1 = x0 - 0.1, x1 + 0.1
        options = {"seed": 1, "step": step, "targets": ("velocity", "noise")}
        s = path.sample(x0, x1, coupling=coupling, **options)
        weight = torch.stack([torch.ones(batch), paths.drift_weight(path, s.t)])
        both = torch.stack([s.x_t, s.x_t]), torch.stack([s.t, s.t])
        return *both, weight, torch.stack([s.velocity, -s.noise])

    _train(stack, draw, steps)
    x = torch.randn(points, dims) - 0.1
    divergences = []
    with torch.no_grad():
        for i in range(101):
            t = i / 100
            if i % 5 == 0:
                spread = (1 - t) ** 2 + t**2 + t * (1 - t) * math.sqrt(4 + sigma**4)
                covariance = torch.cov(x.T.double())
                shift = x.double().mean(0) - (0.2 * t - 0.1)
                kl = covariance.trace() / spread + shift.square().sum() / spread - dims
                kl = kl + dims * math.log(spread) - torch.logdet(covariance)
                divergences.append(float(kl) / 2)
            drift = stack(x.expand(2, -1, -1), torch.full((2, points), t)).sum(0)
            x = x + drift / 100 + sigma * 0.1 * torch.randn(points, dims)
    return sum(divergences) / len(divergences)


def main() -> None:
    """Run the protocol and write a CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_dimensional")
    parser.add_argument("--quick", action="store_true", help="2 seeds, 1000 steps, 1000 points")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--points", type=int, default=10_000, help="of generated and test data")
    parser.add_argument("--pair", action="append", choices=list(PAIRS), help="default: all")
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/two-dimensional.csv"))
    arguments = parser.parse_args()
    seeds, steps, points = arguments.seeds, arguments.steps, arguments.points
    if arguments.quick:
        seeds, steps, points = 2, 1000, 1000
    results: list[Result] = []
    lines: list[list[object]] = []
    names = arguments.pair or list(PAIRS)
    work = [(name, seeds, steps, points) for name in names]
    # A process to a core: networks this small gain nothing from a second thread.
    context = multiprocessing.get_context("spawn")
    options = {"initializer": torch.set_num_threads, "initargs": (1,), "mp_context": context}
    with ProcessPoolExecutor(arguments.jobs, **options) as pool:
        answers = list(pool.map(run_pair, *zip(*work, strict=True)))
    for name, (found, facts) in zip(names, answers, strict=True):
        print(f"{name}: " + ", ".join(f"{k} {v:.3g}" for k, v in facts.items()), flush=True)
        results += found
        for method, published in PUBLISHED.items():
            w2 = [r.w2 for r in found if r.method == method]
            npe = [r.npe for r in found if r.method == method]
            mean, std, energy = published[list(PAIRS).index(name)]
            spread = float(np.std(w2, ddof=1)) if seeds > 1 else 0.0
            lines.append(
                [name, method, seeds, steps, points, np.mean(w2), spread, np.mean(npe), mean, std]
            )
            lines[-1].append(energy)
            print(
                f"  {method:20} W2 {np.mean(w2):.3f} +- {spread:.3f}  NPE {np.mean(npe):.3f}   "
                f"(published {mean:.3f} +- {std:.3f}, {energy:.3f})",
                flush=True,
            )
    header = "pair method seeds steps points w2 w2_std npe published_w2 published_std published_npe"
    if not arguments.pair:
        for dims in (5,) if arguments.quick else (5, 20, 50):
            kl = gaussian_bridge(dims, steps, points)
            print(f"Gaussian bridge, {dims} dimensions: mean KL {kl:.4f}", flush=True)
            lines.append([f"bridge {dims}-D", "SF2M-Sink", 1, steps, points, kl, *[""] * 5])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split())
        writer.writerows(
            [f"{x:.5g}" if isinstance(x, float) else x for x in line] for line in lines
        )


if __name__ == "__main__":
    main()
