"""The 2-D tables of the OT-CFM and [SF]2M papers: `python -m benchmarks.two_dimensional`.

Tong et al. 2024 (arXiv 2302.00482, 2307.03672): network [64, 64, 64] with SELU and t concatenated,
AdamW at 1e-3 with weight decay 1e-5, batches of 512, 20 000 steps, Euler with 100 steps, W2 between
10 000 generated and 10 000 test points, and the normalised path energy NPE = |E int |v|^2 dt -
W2^2(q0, q1)| / W2^2(q0, q1). All methods and seeds of a data pair are one stack of networks whose
layers are batched products, so that a step costs what its arithmetic costs. What is evaluated is
the flow: the scores of [SF]2M, learned by a loss and a network of their own, play no part in it and
are learned in `benchmarks.gaussian_bridge` only. Rows "averaged weights" are of a moving average of
the same training, which also makes the pairs of rectified flow; "exact samples" of points that were
drawn, not generated: the floor of W2.

[SF]2M has sigma = 1, as the paper says. On the two pairs whose points are of unit size its energies
are then far from those published, which are near I-CFM's; with sigma = 0.1 they agree (rows "sigma
0.1"), so that this is what the tables probably have there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import gaussian_bridge, harness
from benchmarks.harness import Row, row
from benchmarks.stacked import Stack, Targets, euler, train
from fastgen.couplings import assign, wasserstein
from fastgen.datasets import eight_gaussians, moons, s_curve
from fastgen.training import paths
from fastgen.training.files import replacing
from fastgen.training.paths.base import PathSample

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


class Protocol(NamedTuple):
    """Seeds, training steps, points of generated and test data, size of a batch."""

    seeds: Sequence[int] = tuple(range(5))
    steps: int = 20_000
    points: int = 10_000
    batch: int = 512


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
            checkpoint=None if folder is None else folder / f"{_file(name)} {what}.safetensors",
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


def _file(name: str) -> str:
    return name.replace("->", " to ")


def kept(
    work: Callable[..., tuple[list[Any], dict[str, float]]],
    name: str,
    protocol: Protocol,
    folder: Path,
    compiled: bool,
) -> tuple[list[Any], dict[str, float]]:
    """What the work returns, which is done once only."""
    path = folder / f"{_file(name)}.json"
    about = protocol._asdict() | {"seeds": list(protocol.seeds)}
    if path.exists():
        stored = json.loads(path.read_text())
        if stored["protocol"] != about:
            raise ValueError(f"{path} is of {stored['protocol']}, not of {about}: remove it")
        return stored["results"], stored["facts"]
    results, facts = work(name, protocol, folder, compiled)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"protocol": about, "results": results, "facts": facts}))
    return results, facts


def _line(
    case: str,
    provider: str,
    metric: str,
    shape: tuple[int, ...],
    mean: float,
    std: float,
    note: str,
) -> Row:
    found = row(
        "two_dimensional", case, provider, "fastgen-torch", shape, torch.float32, metric, "", [mean]
    )
    low, high = (float(f"{mean + sign * std:.5g}") for sign in (-1, 1))
    return replace(found, p20=low, p80=high, note=note)


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
            ours = _line(case, "fastgen", metric, shape, statistics.mean(values), spread, shown)
            found.append(replace(ours, repeats=len(values)))
            if table:
                mean, std, energy = table[list(PAIRS).index(name)]
                published = (mean, std) if metric == "W2" else (energy, 0.0)
                theirs = _line(case, "published", metric, shape, *published, "mean and deviation")
                about = {"version": PAPER, "device": "", "date": "", "commit": "", "repeats": 5}
                found.append(replace(theirs, **about))
    note = ", ".join(f"{k} {v:.4g}" for k, v in facts.items())
    total = sum(v for k, v in facts.items() if not k.startswith("W2"))
    found.append(replace(_line(name, "fastgen", "time", shape, total, 0.0, note), unit="s"))
    return found


def rows_of_case(name: str, protocol: Protocol, folder: Path, compiled: bool) -> list[Row]:
    """Do the work of a pair or a bridge."""
    if name in PAIRS:
        return rows_of(name, *kept(run_pair, name, protocol, folder, compiled), protocol)
    found = kept(gaussian_bridge.run, name, protocol, folder, compiled)
    return gaussian_bridge.rows_of(name, *found, protocol)


def rows(quick: bool) -> Iterator[Row]:
    """The suite, one pair after another; quick: a short training on one pair."""
    protocol = Protocol((0, 1), 200, 500) if quick else Protocol()
    names = ["N->moons"] if quick else [*PAIRS, *gaussian_bridge.CASES]
    for done, name in enumerate(names):
        harness.show_progress(done, len(names))
        if harness.recorded("two_dimensional", name, "fastgen", (protocol.points, 2)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            yield from rows_of_case(name, protocol, Path(folder), not quick)
    harness.show_progress(len(names), len(names))


def main() -> None:
    """Run the protocol and write a CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_dimensional")
    parser.add_argument("--quick", action="store_true", help="2 seeds, 1000 steps, 1000 points")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--points", type=int, default=10_000, help="of generated and test data")
    known = [*PAIRS, *gaussian_bridge.CASES]
    parser.add_argument("--pair", action="append", choices=known, help="default: all")
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--out", type=Path, default=Path("out/two-dimensional.csv"))
    parser.add_argument(
        "--folder", type=Path, default=Path("out/two-dimensional"), help="of checkpoints"
    )
    parser.add_argument("--resume", action="store_true", help="go on from what --folder has")
    arguments = parser.parse_args()
    protocol = Protocol(range(arguments.seeds), arguments.steps, arguments.points)
    if arguments.quick:
        protocol = Protocol(range(2), 1000, 1000)
    names = arguments.pair or known
    if not arguments.resume:
        for name in names:
            for path in arguments.folder.glob(f"{_file(name)}*"):
                path.unlink()
    began = time.perf_counter()
    # A process to a core: networks this small gain nothing from a second thread.
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[Row]] = {}
    with ProcessPoolExecutor(arguments.jobs, context, torch.set_num_threads, (1,)) as pool:
        rest = (protocol, arguments.folder, not arguments.eager)
        work = {pool.submit(rows_of_case, name, *rest): name for name in names}
        for future in as_completed(work):
            name = work[future]
            found[name] = future.result()
            for line in found[name]:
                print(
                    f"{line.case:32} {line.provider:10} {line.metric:5} {line.median:.4f}"
                    f" [{line.p20:.4f}, {line.p80:.4f}] {line.note}",
                    flush=True,
                )
            harness.write([r for n in names for r in found.get(n, [])], arguments.out)
    if not arguments.resume:
        written = [r for n in names for r in found[n]]
        harness.write([*written, wall_time(names, arguments.jobs, began)], arguments.out)


def wall_time(names: Sequence[str], jobs: int, began: float) -> Row:
    """Of the whole run, beside which `time` counts the seconds of each case."""
    case = "whole protocol" if len(names) == len(PAIRS) + len(gaussian_bridge.CASES) else "run"
    seconds = time.perf_counter() - began
    found = _line(case, "fastgen", "wall time", (len(names),), seconds, 0.0, ", ".join(names))
    return replace(found, unit="s", threads=jobs)


if __name__ == "__main__":
    main()
