"""Flows between pairs of distributions on the plane: I-CFM, OT-CFM, [SF]2M, rectified flow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.suites.two_dimensional.protocol import Protocol, file_of, mean_row
from benchmarks.tools.rows import Row
from benchmarks.tools.stacked import Stack, Targets, euler, train
from fastgen.couplings import assign, wasserstein
from fastgen.datasets import eight_gaussians, moons, s_curve
from fastgen.training import paths
from fastgen.training.paths import PathSample

REFLOW = "rectified flow (2)"
NARROW, AVERAGED, EXACT = ", sigma 0.1", ", averaged weights", "exact samples"
# Methods by their paths, each with independent and with optimal pairs.
PATHS = {
    ("I-CFM", "OT-CFM"): paths.Linear(),
    ("SF2M-I", "SF2M-Exact"): paths.Brownian(1.0),
    ("SF2M-I" + NARROW, "SF2M-Exact" + NARROW): paths.Brownian(0.1),
}
OF_UNIT_SIZE = ("N->moons", "N->s-curve")
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
PAPER = "arXiv 2307.03672"
DATA = 10_000  # points to train on, of each distribution
Draw = Callable[[int, np.random.Generator], np.ndarray]


def _normal(count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((count, 2))


def _wide_moons(count: int, rng: np.random.Generator) -> np.ndarray:
    # Both coordinates by one mean and one deviation, as in the code of diffusion Schroedinger
    # bridges that these data come from: W2^2(q0, q1) is then 30 to 32 (29.5 +- 1.5 in the tables);
    # with those of each coordinate it is 19.
    points = moons(count, rng)
    return 7 * (points - points.mean()) / points.std()


PAIRS: dict[str, tuple[Draw, Draw]] = {
    "N->8g": (_normal, eight_gaussians),
    "moons->8g": (_wide_moons, lambda n, rng: eight_gaussians(n, rng, 12.0, 1.5)),
    "N->moons": (_normal, lambda n, rng: 2 * moons(n, rng) - 1),
    "N->s-curve": (_normal, lambda n, rng: 1.5 * s_curve(n, rng)),
}


class Result(NamedTuple):
    """W2 and NPE of one network."""

    pair: str
    method: str
    seed: int
    w2: float
    npe: float


class Sets:
    """The two sets of points that one seed trains on, and their minibatches, paired or not.

    Every seed has test sets of its own, ``starts`` and ``ends``: between two sets of 10 000 points
    of eight modes W2 depends on how many points each mode happens to have.
    """

    def __init__(self, pair: str, seed: int, points: int) -> None:
        rng = np.random.default_rng(1000 + seed)
        x0, x1 = (torch.from_numpy(draw(DATA, rng)).float() for draw in PAIRS[pair])
        self.x0, self.x1, self.seed = x0, x1, seed
        whole = assign(x0, x1, return_duals=True)
        assert whole.duals is not None
        # The prices of the whole sets are nearly those of a batch: a third of the time is saved.
        self.prices = whole.duals[1]
        rng = np.random.default_rng(2000 + seed)
        self.starts, self.ends, self.others = (
            torch.from_numpy(draw(points, rng)).float() for draw in (*PAIRS[pair], PAIRS[pair][1])
        )
        self.transport = wasserstein_squared(self.starts, self.ends)

    def draw(self, step: int, batch: int) -> tuple[Tensor, Tensor]:
        """Indices (i, j) of independent pairs."""
        generator = torch.Generator().manual_seed(self.seed << 32 | step)
        i, j = torch.randint(DATA, (2, batch), generator=generator)
        return i, j

    def paired(self, i: Tensor, j: Tensor) -> Tensor:
        """j in the order of exact optimal transport from x0[i]."""
        return j[assign(self.x0[i], self.x1[j], warm_start=self.prices[j]).permutation]


def wasserstein_squared(a: Tensor, b: Tensor) -> float:
    """W2^2 of two samples of one size."""
    return wasserstein(a, b) ** 2


def paths_of(pair: str) -> dict[tuple[str, str], paths.Path]:
    """Those of the methods that are trained side by side."""
    wide = pair not in OF_UNIT_SIZE
    return {k: path for k, path in PATHS.items() if not (wide and k[0].endswith(NARROW))}


def targets_of_step(pair: str, sets: Sequence[Sets], step: int, batch: int) -> Targets:
    """One step of all networks, by method and then by seed."""
    groups: dict[str, list[PathSample]] = {}
    for mine in sets:
        i, j = mine.draw(step, batch)
        pairs = (i, j), (i, mine.paired(i, j))
        for both, path in paths_of(pair).items():
            for method, chosen in zip(both, pairs, strict=True):
                found = path.sample(mine.x0, mine.x1, seed=mine.seed, step=step, pairs=chosen)
                groups.setdefault(method, []).append(found)
    return velocities([s for group in groups.values() for s in group])


def velocities(samples: Sequence[PathSample]) -> Targets:
    """Every network's states, times and velocities."""
    x, t, v = (torch.stack([getattr(s, n) for s in samples]) for n in ("x_t", "t", "velocity"))
    return Targets(x, t, torch.ones_like(t), v)


def targets_of_reflow(
    starts: Tensor, ends: Tensor, seeds: Sequence[int], step: int, batch: int
) -> Targets:
    """One step of the second round of rectified flow, on pairs [seeds, N, 2] of the first."""
    made = []
    for x0, x1, seed in zip(starts, ends, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed << 32 | step)
        i = torch.randint(len(x0), (batch,), generator=generator)
        made.append(paths.Linear().sample(x0, x1, seed=seed, step=step, pairs=(i, i)))
    return velocities(made)


def run_pair(
    name: str, protocol: Protocol, folder: Path | None = None, compiled: bool = False
) -> tuple[list[Result], dict[str, float]]:
    """All methods on one pair of distributions; also where the seconds went.

    folder: of checkpoints, with which a run that was killed goes on.
    """
    seeds, steps, points, batch = protocol
    count = len(seeds)
    sets = [Sets(name, seed, points) for seed in seeds]
    starts = torch.stack([mine.starts for mine in sets])
    seconds: dict[str, float] = {}

    def fit(stack: Stack, what: str, draw: Callable[[int], Targets]) -> Stack:
        """Train; the average of the weights."""

        def progress(step: int, losses: Tensor) -> None:
            print(f"{name}, {what}: step {step}, loss {losses.mean():.4f}", flush=True)

        average = stack.part(0, len(stack.weights[0]))
        spent = train(
            stack,
            draw,
            steps,
            average=average,
            compiled=compiled,
            checkpoint=None if folder is None else folder / f"{file_of(name)} {what}.safetensors",
            protocol={"pair": name, "what": what, "seeds": list(seeds), "batch": batch},
            progress=None if folder is None else progress,
        )
        seconds.update({f"{what}, {k}": v for k, v in spent.items()})
        return average

    def evaluate(stack: Stack, methods: Iterable[str]) -> list[Result]:
        began = time.perf_counter()
        names = list(methods)
        ends, energies = euler(stack, starts.repeat(len(names), 1, 1))
        results = []
        for (method, mine), end, energy in zip(
            [(m, mine) for m in names for mine in sets], ends, energies.tolist(), strict=True
        ):
            w2 = wasserstein_squared(end, mine.ends) ** 0.5
            npe = abs(energy - mine.transport) / mine.transport
            results.append(Result(name, method, mine.seed, w2, npe))
        seconds["evaluation"] = seconds.get("evaluation", 0.0) + time.perf_counter() - began
        return results

    methods = [method for both in paths_of(name) for method in both]
    stack = Stack([f"{method} {seed}" for method in methods for seed in seeds])
    average = fit(stack, "matching", lambda step: targets_of_step(name, sets, step, batch))
    results = evaluate(stack, methods)
    results += evaluate(average, [m + AVERAGED for m in methods])

    # The second round of rectified flow, on the pairs of the first: I-CFM with averaged weights,
    # since no later round mends a pair that ends off the data.
    sources = torch.stack([mine.x0 for mine in sets])
    images, _ = euler(average.part(0, count), sources)
    second = Stack([f"{REFLOW} {seed}" for seed in seeds])
    average = fit(
        second, "reflow", lambda step: targets_of_reflow(sources, images, seeds, step, batch)
    )
    results += evaluate(second, [REFLOW]) + evaluate(average, [REFLOW + AVERAGED])
    for mine in sets:  # what sampling alone leaves between two sets of points
        floor = wasserstein_squared(mine.others, mine.ends) ** 0.5
        results.append(Result(name, EXACT, mine.seed, floor, 0.0))
    transport = statistics.mean(mine.transport for mine in sets)
    return results, {"W2^2(q0, q1)": transport, **seconds}


def rows_of(
    name: str, results: Sequence[Sequence[Any]], facts: dict[str, float], protocol: Protocol
) -> list[Row]:
    """Mean and one standard deviation either way, over seeds, beside the published ones."""
    found = []
    shape = (protocol.points, 2)
    for method in dict.fromkeys(str(r[1]) for r in results):
        mine = [Result(*r) for r in results if r[1] == method]
        table = PUBLISHED.get(method.removesuffix(AVERAGED).removesuffix(NARROW))
        for metric in ("W2", "NPE") if table else ("W2",):
            values = [r.w2 if metric == "W2" else r.npe for r in mine]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            shown = "seeds: " + " ".join(f"{v:.4f}" for v in values)
            case = f"{name}, {method}"
            ours = mean_row(case, "fastgen", metric, shape, statistics.mean(values), spread, shown)
            found.append(replace(ours, repeats=len(values)))
            if table:
                mean, std, energy = table[list(PAIRS).index(name)]
                published = (mean, std) if metric == "W2" else (energy, 0.0)
                theirs = mean_row(
                    case, "published", metric, shape, *published, "mean and deviation"
                )
                about: dict[str, Any] = {
                    "version": PAPER,
                    "device": "",
                    "date": "",
                    "commit": "",
                    "repeats": 5,
                }
                found.append(replace(theirs, **about))
    note = ", ".join(f"{k} {v:.4g}" for k, v in facts.items())
    total = sum(v for k, v in facts.items() if not k.startswith("W2"))
    found.append(replace(mean_row(name, "fastgen", "time", shape, total, 0.0, note), unit="s"))
    return found
