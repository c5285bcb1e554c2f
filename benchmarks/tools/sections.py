"""The sections of docs/benchmarks.md, each from the rows of its suites."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.tools.cells import (
    amount,
    by_fastest,
    by_shape,
    chosen,
    shape,
    side_by_side,
    three,
    times,
)
from benchmarks.tools.multiples import Multiple, cases, multiples
from benchmarks.tools.rows import Row
from benchmarks.tools.tables import Table, budgets, markdown

Rows = dict[str, list[Row]]
PUBLISHED = "published"
METHODS = ("I-CFM", "OT-CFM", "SF2M-I", "SF2M-Exact", "rectified flow (2)")
PAIRS = ("N->8g", "moons->8g", "N->moons", "N->s-curve")
PROBLEMS = ("mixture, d = 2", "mixture, d = 64", "mixture, d = 3072", "digits, d = 64",
            "photographs, d = 192", "digits network, noise",
            "digits network, velocity")  # fmt: skip
GRIDS = ("log_snr", "karras", "uniform")
LEVELS = "mixture, d = 64, 1000 levels"
NFES = (5, 10, 20, 50)
# What the tables show of many; the rest is in the files, and the range of all is said.
SOLVERS = ("ddpm", "ddim (", "euler (", "dpmpp_2m", "rk4")
SCHEDULERS = ("DDPM", "DDIM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep",
              "UniPCMultistep", "FlowMatchEulerDiscrete")  # fmt: skip
SDES = ("euler_maruyama", "milstein", "srk", "heun", "reversible_heun")


def some(rows: Iterable[Row], names: Sequence[str]) -> list[Row]:
    """The rows of these cases."""
    return [row for row in rows if row.case in names]


def spread(rows: Sequence[Row]) -> str:
    """The least and the greatest multiple of all rows, and where they are."""
    found = sorted(multiples(rows), key=lambda pair: pair.value)
    ends = (f"{times(p.value)} ({p.ours.case}, {shape(p.ours)})" for p in (found[0], found[-1]))
    return " to ".join(ends)


def ranges(rows: Sequence[Row], names: dict[str, str]) -> str:
    """For each name the least and the greatest multiple of the cases that begin with a prefix."""
    parts = []
    for prefix, name in names.items():
        found = sorted(pair.value for pair in multiples(chosen(rows, prefix)))
        ends = [times(found[0])] if len(found) == 1 else [times(found[0]), times(found[-1])]
        parts.append(f"{name} {' to '.join(ends)}")
    return ", ".join(parts)


def loops(rows: Rows) -> str:
    """Loops at one shape, and the range over all solvers."""
    shown = chosen(rows["loops"], *SOLVERS, shape="64x3x32x32")
    stages = sorted((row.median, row.case) for row in rows["stages"] if row.repeats)
    (least, fast), (most, slow) = stages[0], stages[-1]
    middle = statistics.median(time for time, _ in stages)
    return f"""## Sampling loops

A loop of 20 steps: time per step of everything outside the network. "eager, preallocated" is what
an expert writes by hand for one solver; "torch.compile" is the same step compiled.

![Time per step at three shapes](figures/loops.svg)

{markdown(*side_by_side(shown, "step at (64, 3, 32, 32)", shapes=False))}

A stage of each of the {len(stages)} solvers at (256, 2) takes {three(least)} us ({fast}) to
{three(most)} us ({slow}), {three(middle)} us in the median."""


def drop_ins(rows: Rows) -> str:
    """Schedulers and samplers: ours, and the peer's multiple."""
    plain = [row for row in rows["drop_ins"] if "contract" not in row.case]
    schedulers = [row for row in rows["schedulers"] if row.metric == "step"]
    names = {"k_diffusion": "k-diffusion", "edm": "EDM", "flow_matching": "flow_matching"}
    training = {
        "matcher Cond": "torchcfm's matcher of independent pairs",
        "matcher Exact": "of optimal pairs",
        "odeint dopri5": "torchdiffeq's dopri5",
        "odeint rk4": "rk4",
        "gradient, odeint": "gradients",
    }
    return f"""## Drop-ins

The same code under two imports, with the same noise from torch's generator: fastgen's time, and the
original's as a multiple of it. (Noise of the library's own contract has rows of its own.)

{markdown(*by_shape(some(schedulers, SCHEDULERS), "`step` of diffusers"))}

All {len(cases(schedulers))} cases of diffusers: {spread(schedulers)}. An evaluation with the
samplers of other libraries: {ranges(plain, names)}. In training:
{ranges(rows["training_drop_ins"], training)}."""


def kernels(rows: Rows) -> str:
    """The kernels alone, at the middle size."""
    elements = 2**20
    middle = [r for r in rows["kernels"] if size(r) == elements]
    return f"""## Kernels alone

At 2^20 elements of float32; 2^16 and 2^22 are in the file. In "error norm and step size" ours finds
the next steps too, the others compute the norm alone.

{markdown(*side_by_side(middle, "kernel"))}"""


def size(row: Row) -> int:
    """The number of elements of a row's shape."""
    product = 1
    for length in row.shape.split("x"):
        product *= int(length)
    return product


def networks(rows: Rows) -> str:
    """Whole loops, memory, the import."""
    order = ("fastgen", "diffusers", "network alone")
    state = rows["memory"][0]
    memory = "; ".join(
        f"{p.ours.case} {amount(p.ours)}, diffusers {amount(p.theirs)}"
        for p in multiples(rows["memory"])
    )
    (start,) = chosen(rows["startup"], "import after torch")
    (first,) = chosen(rows["startup"], "first use of sample")
    return f"""## Real networks, memory, start

DPM-Solver++ (2M), 10 steps: time per evaluation, on the threads that torch takes. Where the network
takes milliseconds no solver library makes sampling faster. "network alone" is a bound, not a peer.

{markdown(*side_by_side(rows["end_to_end"], "network", order))}

Peak memory of a run at {shape(state)}, above what was there before ({three(state.floor)} MiB is one
state): {memory}. `import fastgen` adds {start.median / 1e3:.1f} ms to
`import torch`, as modules are loaded when they are used; the first `fastgen.sample` loads its own
in {first.median / 1e6:.2f} s."""


def equations(rows: Rows) -> str:
    """Differential equations."""
    timed, spent = chosen(rows["ode"], metric="time"), chosen(rows["ode"], metric="rows")
    pairs = list(multiples(spent))
    steps, queries = chosen(rows["sde"], *SDES), chosen(rows["sde"], "increment")
    sdes = ", ".join(
        f"{times(p.value)} ({p.ours.case.removesuffix(', step')})" for p in multiples(steps)
    )
    order = ("fastgen", "fastgen, depth 7", "torchsde", "torchsde, any order", "one normal field")
    few, many = pairs[0], pairs[-1]
    return f"""## Differential equations

An attempted step, the vector field replaced by a table of its values; then whole solves of a
continuous normalizing flow at equal accuracy, where "network alone" is a bound.

{markdown(*side_by_side(timed, "ODE"))}

Evaluations for phase-shifted Van der Pol orbits, mu = 25, a row for each sample: {rows_spent(few)},
{rows_spent(many)}. fastgen has a step size for each sample; a joint step follows the fastest one.
A step of an SDE at {shape(steps[0])} takes torchsde {sdes} of fastgen's time.

A query of a Brownian increment of {shape(queries[0])}. torchsde's default motion depends on which
queries were made before; "any order" does not, as ours never does. Depth 7 is enough for steps of
2^-7 and more. "one normal field" is a bound.

{markdown(*side_by_side(queries, "query", order, shapes=False))}"""


def rows_spent(pair: Multiple) -> str:
    """What a solve of so many samples evaluates."""
    batch = int(pair.ours.shape.split("x")[0])
    orbits = "orbit takes" if batch == 1 else "orbits take"
    return (
        f"{batch:,} {orbits} {amount(pair.ours)}, with torchdiffeq {amount(pair.theirs)} "
        f"({times(pair.value)})"
    )


def transport(rows: Rows) -> str:
    """Exact and entropic transport."""
    couplings, sinkhorn = rows["couplings"], rows["sinkhorn"]
    large = chosen(couplings, "large", metric="time")
    gap = max(row.median for row in couplings if row.metric == "gap")
    timed = chosen(sinkhorn, metric="time")
    large_clouds = [row for row in timed if not row.shape.startswith("512x")]
    errors: dict[str, list[float]] = {}
    for row in sinkhorn:
        if row.metric == "marginal error":
            errors.setdefault(row.provider.split(" ")[0].strip(","), []).append(row.median)
    reached = ", ".join(f"{k} {three(min(v))} to {three(max(v))}" for k, v in errors.items())
    sizes = " and ".join(f"{amount(row)} at {shape(row)}" for row in large)
    alone = ", ".join(
        f"{amount(found['product alone'])} beside {amount(found['fastgen'])} at "
        f"{shape(found['fastgen'])}"
        for found in cases(chosen(couplings, "pairing")).values()
        if "product alone" in found
    )
    return f"""## Optimal transport

Exact assignment with the costs given, beside peers that give the same cost to 1e-6. Peers that
took over half a second on a smaller case were not asked again. The relative gap that fastgen
certifies is at most {gap:.1e}; the largest problems take {sizes}.

![Time of one assignment](figures/couplings.svg)

In many dimensions the product x0 @ x1.T alone is a bound of the way from two batches to pairs: it
takes {alone}.

Entropic transport until the marginals are within 1e-3, everything counted. POT and OTT-JAX check
every tenth sweep only and end nearer; OTT-JAX has the boldest momentum that converges, geomloss,
which takes no tolerance, the finest annealing that was tried. Errors reached: {reached}.

{markdown(*side_by_side(large_clouds, "part of the mean cost"))}"""


def assignment(rows: Rows) -> str:
    """Exact assignment by kind of costs, and how it grows."""
    timed = chosen(rows["assignment"], metric="time")
    small = [row for row in timed if row.case.startswith(("all kinds", "batch"))]
    larger = [row for row in timed if row not in small]
    excess = [row for row in rows["assignment"] if row.metric == "excess"]
    inexact = ", ".join(dict.fromkeys(row.provider for row in excess)) or "none"
    grown = rows["growth"]
    lines = []
    for row in chosen(grown, metric="exponent"):
        sizes = chosen(grown, metric="time")
        last = [found for found in sizes if found.case == row.case][-1]
        lines.append([row.case, three(row.median), row.note.removeprefix("jumps "),
                      f"{amount(last)} at {shape(last)}"])  # fmt: skip
    header = ["kind", "exponent", "jumps: exponent", "last size"]
    return f"""## Exact assignment of every kind of costs

Matrices of float32. A cell is fastgen's time and its fastest peer (of lapx all methods, ortools,
scipy, POT) as a multiple; of "all kinds" it is the mean of a call over the kinds in turn. Peers
that took over 50 ms on a smaller problem of the kind were not asked again. A pairing that costs
more than the least by over 1e-6 was given by: {inexact}.

{markdown(*by_fastest(small, "small problems"))}

{markdown(*by_fastest(larger, "kind"))}

How the time from points (or a matrix) to a pairing grows: exponents from 1024 points on, and
doublings whose own exponent is above 3.

{markdown(header, lines)}"""


def training(rows: Rows) -> str:
    """Batches and whole steps."""
    found = rows["training"]
    waits = "; ".join(
        f"{row.case.removeprefix('waiting for pairs, ')}, {row.provider}: {three(row.median)} %"
        for row in chosen(found, "waiting")
    )
    steps, held = rows["trainer"], chosen(rows["trainer"], metric="peak")
    ours = [row.median for row in chosen(steps, "a step") if row.provider.endswith("accelerate")]
    pairs = zip(ours[::2], ours[1::2], strict=True)
    names = [row.case.removeprefix("a step, ") for row in chosen(steps, "a step")][::3]
    hand = ", ".join(
        f"{theirs / t:.2f} x ({name})" for name, (t, theirs) in zip(names, pairs, strict=True)
    )
    sizes = " and ".join(f"{row.median:.0f} MiB ({row.provider})" for row in held)
    return f"""## Training

A loop by hand on accelerate takes {hand} of the time of a `Trainer` on accelerate. A process that
reads at random from {held[0].case} holds {sizes}.

Drawing one batch beside torchcfm, and whole OT-CFM steps of two networks. What a step takes more
than with independent pairs is the pairing.

{markdown(*by_shape(chosen(found, "straight", "Brownian"), "one batch"))}

{markdown(*side_by_side(chosen(found, "OT-CFM"), "one step"))}

The share of a step that waits for its pairs: {waits}. Where pairing takes longer than training, a
second core cannot hide it."""


def best(curves: Sequence[tuple[str, dict[int, Row]]], nfe: int) -> str:
    """The least median at a budget, and whose it is."""
    found = [(curve[nfe].median, name) for name, curve in curves if nfe in curve]
    if not found:
        return ""
    least, name = min(found)
    return f"{three(least) if least > 1e-12 else '0'} {name}"


def quality(rows: Rows) -> str:
    """Curves of some solvers, the best of all, and the peers beside ours."""
    found = budgets(rows["quality"])
    count = len(found[f"{PROBLEMS[0]}, {GRIDS[0]}", "w2"])
    return f"""## Quality

Quality against the number of network evaluations (NFE). Denoisers are exact, so that the error left
is the solver's: *rms* is the distance to the exact endpoint of the flow from the same noise,
*sliced_w2* the distance in law to exact samples. With networks trained on the digits the metric is
the Fréchet distance to held-out digits in the features of the demonstration. Medians over seeds.

![Error over evaluations](figures/quality.svg)

No solver is best everywhere. The best of {count} solvers (*rms*: of the deterministic ones) on any
of three grids:

{markdown(*the_best(found))}

An rms under 1e-12 is shown as 0: samples fall onto a digit of the data set. Below are the peers as
their documentation recommends them, beside nine of our solvers on Karras' grid (mixture, d = 64,
diffusers' 1000 levels), the best of each:

{markdown(*the_peers(found))}"""


def the_best(found: dict[tuple[str, str], dict[str, dict[int, Row]]]) -> Table:
    """A line for each problem."""
    lines = []
    for problem in PROBLEMS:
        metric = "frechet" if "network" in problem else "rms"
        curves = [(solver, curve) for solver, curve in found.get((problem, metric), {}).items()]
        for grid in GRIDS:
            of_grid = found.get((f"{problem}, {grid}", metric), {})
            curves += [(f"{solver}, {grid}", curve) for solver, curve in of_grid.items()]
        lines.append([f"{problem}: {metric}", *(best(curves, n) for n in NFES)])
    return ["problem", *(f"NFE {n}" for n in NFES)], lines


def the_peers(found: dict[tuple[str, str], dict[str, dict[int, Row]]]) -> Table:
    """A line for each metric and library."""
    lines = []
    for metric in ("rms", "sliced_w2"):
        for package in ("fastgen-torch", "diffusers", "k-diffusion"):
            curves = [
                (solver.removesuffix("Scheduler").removeprefix("sample_"), curve)
                for solver, curve in found[LEVELS, metric].items()
                if next(iter(curve.values())).version.startswith(package)
            ]
            label = f"{metric}: {package.removesuffix('-torch')}"
            lines.append([label, *(best(curves, n) for n in NFES)])
    return ["metric: library", *(f"NFE {n}" for n in NFES)], lines


def two_dimensional(rows: Rows) -> str:
    """Ours and published means."""
    found = {(row.case, row.provider, row.metric): row.median for row in rows["two_dimensional"]}
    kinds = ("", ", averaged weights")

    def ours(pair: str, method: str, metric: str) -> list[float]:
        return [found[f"{pair}, {method}{kind}", "fastgen", metric] for kind in kinds]

    def theirs(pair: str, method: str, metric: str) -> float:
        return found[f"{pair}, {method}", PUBLISHED, metric]

    lines = []
    for method in METHODS:
        cells = []
        for pair in PAIRS:
            published = theirs(pair, method, "W2")
            means = [three(v) if v <= published else f"**{three(v)}**"
                     for v in ours(pair, method, "W2")]  # fmt: skip
            cells.append(f"{', '.join(means)} / {three(published)}")
        lines.append([method, *cells])
    floors = [three(found[f"{pair}, exact samples", "fastgen", "W2"]) for pair in PAIRS]
    lines.append(["two exact sets", *floors])
    energies = [
        [ours(pair, m, "NPE")[k] > theirs(pair, m, "NPE") for pair in PAIRS for m in METHODS]
        for k in range(2)
    ]
    return f"""## The 2-D tables of the OT-CFM papers

W2, means over five seeds: ours, ours with averaged weights / published (Tong et al. 2024, arXiv
2302.00482, 2307.03672). Networks, batches and steps are the same. Bold: ours is worse.

{markdown(["W2", *PAIRS], lines)}

The normalised path energy is worse than published in {sum(energies[0])} of {len(energies[0])} cells
({sum(energies[1])} with averaged weights). [SF]2M has sigma = 1 as the paper says; with sigma = 0.1
its figures on the two pairs of unit size are nearer to those published. These rows, the Gaussian
bridges and all seeds are in the file."""
