"""The figures of docs/concepts/: schedules, a Gaussian path, a lowered plan, a Brownian path.

`python -m benchmarks.tools.concepts` draws them. Each carries a digest of the code that drew it:
by that a test tells whether it is current, as other versions of matplotlib draw other bytes.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastgen
from benchmarks.tools import kept
from benchmarks.tools.tables import budgets
from fastgen import schedules
from fastgen.plans.program import Program, Raw, Stage

FOLDER = Path(__file__).parent.parent.parent / "docs" / "figures"
GREY, INK, BLUE, ORANGE = "0.55", "0.15", "tab:blue", "tab:orange"


def draw_schedules(figure: Any) -> None:
    """alpha and sigma over t, and the half log-SNR that all of them pass through."""
    shown = {
        "Rectified": schedules.Rectified(),
        "Trig": schedules.Trig(),
        "CosineVP": schedules.CosineVP(),
        "LinearVP": schedules.LinearVP(),
        "SubVP": schedules.SubVP(),
        "VE": schedules.VE(),
        "EDM": schedules.EDM(),
    }
    left, middle, right = figure.subplots(1, 3)
    t = np.linspace(0.002, 0.998, 300)
    for number, (name, schedule) in enumerate(shown.items()):
        style = {"color": f"C{number}", "linestyle": "-" if number % 2 == 0 else "--"}
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        if name not in ("VE", "EDM"):
            left.plot(t, alpha, **style)
            middle.plot(t, sigma, **style)
        right.plot(t, schedule.half_log_snr(t), label=name, **style)
    for axes, title in ((left, "alpha(t)"), (middle, "sigma(t)"), (right, "log(alpha / sigma)")):
        axes.set(title=title, xlabel="t: 0 data, 1 noise")
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
    right.set_ylim(-8, 8)
    right.legend(fontsize=7, loc="upper right")


def two_modes(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Density and flow velocity of two Gaussians at x, t [B], on `Rectified`: closed forms."""
    means, stds = torch.tensor([-1.2, 1.0]).double(), torch.tensor([0.2, 0.35]).double()
    alpha, sigma = 1 - t, t
    variance = (alpha[..., None] * stds) ** 2 + sigma[..., None] ** 2
    apart = x[..., None] - alpha[..., None] * means
    parts = torch.exp(-(apart**2) / (2 * variance)) / (2 * torch.pi * variance).sqrt() / 2
    density = parts.sum(-1)
    data = (parts * (means + alpha[..., None] * stds**2 / variance * apart)).sum(-1) / density
    return density, (x - data) / sigma  # noise - data, with x = (1 - t) data + t noise


def draw_family(figure: Any) -> None:
    """The densities of a path as an image, and trajectories of its flow from noise to data."""
    net = lambda x, t: two_modes(x[:, 0], t.double().clamp(min=1e-4))[1][:, None]  # noqa: E731
    model = fastgen.Model(net, schedules.Rectified(), "velocity", dtype=torch.float64)
    start = torch.special.ndtri(torch.linspace(0.02, 0.98, 25).double())[:, None]
    plan = fastgen.plan("rk4", model.schedule, 40)
    sampler = fastgen.Sampler(model, plan, dtype=torch.float64)
    _, states = sampler(start, trajectory=True)
    t, x = np.linspace(0.01, 1, 100), np.linspace(-3, 3, 160)
    grid_t, grid_x = (torch.from_numpy(a) for a in np.meshgrid(t, x))
    density = two_modes(grid_x, grid_t)[0]
    axes = figure.subplots()
    axes.imshow(
        density.sqrt().numpy(), extent=(t[0], t[-1], x[0], x[-1]), origin="lower", aspect="auto",
        cmap="Blues", vmax=1.1,
    )  # fmt: skip
    axes.plot(plan.times, states[:, :, 0].numpy(), color=ORANGE, linewidth=0.8)
    axes.set(xlabel="t: 0 data, 1 noise", ylabel="x", xlim=(1, 0), ylim=(-3, 3))
    axes.set_title("p_t(x) and the flow dx/dt = u(x, t), from noise (left) to data", fontsize=10)


def lowered(predicts: str = "noise") -> Program:
    """DPM-Solver++ 2M, four steps, for a network that predicts the noise."""
    schedule = schedules.CosineVP()
    model = fastgen.Model(lambda x, t: x, schedule, predicts)
    plan = fastgen.plan("dpmpp_2m", schedule, 4, predicts=predicts)
    return fastgen.Sampler(model, plan).prepared.program()


def draw_plan(figure: Any) -> None:
    """Network calls above, buffers below, and between them what each stage reads and writes."""
    program = lowered()
    axes = figure.subplots()
    buffers = len(program.network_buffers)
    net, middle, low = 3.2, 2.0, [0.7 - 0.55 * b for b in range(buffers)]
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
    for b, y in enumerate(low):
        axes.plot(
            [-0.6, 2.6 * (len(program.calls) + 1)], [y, y], color="0.85", linewidth=6, zorder=0
        )
        axes.text(-0.7, y, f"buffer {b}", ha="right", va="center", fontsize=9)
    axes.text(-0.7, net, "network", ha="right", va="center", fontsize=9)
    axes.text(-0.7, middle, "stage:\none kernel call", ha="right", va="center", fontsize=9)
    for k, call in enumerate(program.calls):
        x = 2.6 * k + 0.2
        _box(axes, x, net, f"call {k}\nt = {call.time:.3f}", "#dbe9f6")
        axes.annotate("", (x - 0.35, net - 0.32), (x - 0.35, low[call.input]),
                      arrowprops={**arrow, "color": GREY, "linestyle": ":"})  # fmt: skip
    for k, stage in enumerate(program.stages):
        if stage is None:
            continue
        x = 2.6 * k - 0.95
        _box(axes, x, middle, _matrix(stage), "#fdebd3")
        for place, source in enumerate(stage.inputs):
            if isinstance(source, Raw):
                begin = (2.6 * source.evaluation + 0.55, net - 0.32)
                axes.annotate(
                    "", (x - 0.2, middle + 0.3), begin, arrowprops={**arrow, "color": BLUE}
                )
            elif isinstance(source, int):
                at = x - 0.55 + 0.22 * place
                axes.annotate("", (at, middle - 0.3), (at, low[source]),
                              arrowprops={**arrow, "color": BLUE})  # fmt: skip
        for place, target in enumerate(stage.outputs):
            at = x + 0.3 + 0.22 * place
            axes.annotate("", (at, low[target]), (at, middle - 0.3),
                          arrowprops={**arrow, "color": ORANGE})  # fmt: skip
    axes.text(2.6 * len(program.calls) + 0.2, low[program.result] + 0.12, "the sample", fontsize=9)
    legend = (
        "blue: read;  orange: written;  dotted: the network's input;  "
        "in the boxes: one line of factors for each tensor written"
    )
    axes.text(4.5, low[-1] - 0.55, legend, ha="center", fontsize=9)
    axes.set(xlim=(-2.2, 2.6 * len(program.calls) + 1.4), ylim=(low[-1] - 0.8, net + 0.6))
    axes.axis("off")


def _box(axes: Any, x: float, y: float, text: str, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.3", "facecolor": colour, "edgecolor": "0.4"}
    axes.text(x, y, text, ha="center", va="center", fontsize=7.5, bbox=box, linespacing=1.4)


def _matrix(stage: Stage) -> str:
    return "\n".join("  ".join(f"{c:.4g}" for c in row) for row in np.asarray(stage.table))


def draw_brownian(figure: Any) -> None:
    """One motion asked at 9, 33 and 513 times."""
    axes = figure.subplots()
    for count, style in ((513, {"color": "0.75", "linewidth": 0.8}),
                         (33, {"color": BLUE, "marker": ".", "linewidth": 1.0}),
                         (9, {"color": ORANGE, "marker": "o", "linewidth": 1.6})):  # fmt: skip
        times = np.linspace(0, 1, count)
        path = fastgen.brownian((1, 1), times.tolist(), seed=3)[:, 0, 0]
        axes.plot(times, path.numpy(), label=f"{count} times", **style)
    axes.set(xlabel="time", ylabel="W")
    axes.set_title(
        "fastgen.brownian, seed 3: each finer grid passes through the coarser", fontsize=10
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


SIDES = (
    ("mixture, d = 64, log_snr", "sliced_w2", "exact denoiser, mixture in 64 dimensions"),
    ("digits network, noise", "frechet", "trained noise network, digits"),
)
PAIRS = (("ddim", "ddpm"), ("dpmpp_2m", "dpmpp_2m_sde"), ("unipc", "sa_solver"))


def draw_ode_and_sde(figure: Any) -> None:
    """Pairs of solvers of one family, without and with noise, from the kept rows."""
    found = budgets(kept.read("quality"))
    labels = {"sliced_w2": "sliced W2 to exact samples", "frechet": "Fréchet distance"}
    for axes, (problem, metric, title) in zip(figure.subplots(1, 2), SIDES, strict=True):
        for number, names in enumerate(PAIRS):
            for name, style in zip(names, ("o-", "s--"), strict=True):
                points = sorted((n, r.median) for n, r in found[problem, metric][name].items())
                axes.plot(
                    *zip(*points, strict=True), style, color=f"C{number}", markersize=4, label=name
                )
        axes.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel=labels[metric])
        axes.set_title(title, fontsize=10)
        ticks = (4, 6, 10, 20, 50)
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8, title="dashed: with noise", title_fontsize=8, loc="lower left")


FIGURES: dict[str, tuple[Callable[[Any], None], tuple[float, float]]] = {
    "schedules": (draw_schedules, (9, 3)),
    "family": (draw_family, (7, 3.4)),
    "plan": (draw_plan, (10, 4.2)),
    "brownian": (draw_brownian, (7, 3)),
    "ode-and-sde": (draw_ode_and_sde, (9, 3.6)),
}


def digest(name: str) -> str:
    """Of the code that draws a figure, and of the rows where it draws rows."""
    parts = [inspect.getsource(FIGURES[name][0])]
    if name == "ode-and-sde":
        found = budgets(kept.read("quality"))
        for problem, metric, _ in SIDES:
            curves = found[problem, metric]
            parts += [repr([(n, r.median) for n, r in curves[s].items()]) for p in PAIRS for s in p]
    return hashlib.blake2b("".join(parts).encode(), digest_size=8).hexdigest()


def write(folder: Path = FOLDER) -> list[Path]:
    """Draw all; their files."""
    import matplotlib
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "fastgen"}
    with matplotlib.rc_context(settings):
        for name, (draw, size) in FIGURES.items():
            canvas = Figure(figsize=size, layout="constrained")
            draw(canvas)
            about = {"Date": None, "Description": f"digest of the rows: {digest(name)}"}
            written.append(folder / f"{name}.svg")
            canvas.savefig(written[-1], metadata=about)
    return written


if __name__ == "__main__":
    write()
