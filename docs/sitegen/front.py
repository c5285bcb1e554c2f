"""Pictures that are drawn when the site is built: the front page's, and that of the time grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sphinx.application import Sphinx
from torch import Tensor

import fastgen
from fastgen import timesteps
from fastgen.schedules import DiscreteVP, LinearVP

# Three Gaussians on a line: weights, means and standard deviations.
PARTS = ((0.3, 0.25, 0.45), (-1.6, 0.2, 1.5), (0.18, 0.3, 0.22))
SEGMENTS = 160
LIGHT = "#f4b860"


def _parts() -> tuple[Tensor, Tensor, Tensor]:
    weights, means, deviations = (torch.tensor(each, dtype=torch.float64) for each in PARTS)
    return weights, means, deviations


def density(x: np.ndarray, schedule: Any, t: float) -> np.ndarray:
    """p_t at the points x of the line."""
    weights, means, deviations = (each.numpy() for each in _parts())
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    variance = (alpha * deviations) ** 2 + sigma**2
    away = x[:, None] - alpha * means
    each = weights * np.exp(-0.5 * away**2 / variance) / np.sqrt(2 * np.pi * variance)
    return np.asarray(each.sum(1))


def denoiser(schedule: Any) -> Any:
    """The exact E[x_0 | x_t]."""
    weights, means, deviations = _parts()

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        time = t[0].item()
        alpha, sigma = schedule.alpha(time), schedule.sigma(time)
        variance = (alpha * deviations) ** 2 + sigma**2
        away = x - alpha * means
        share = (weights.log() - 0.5 * away**2 / variance - 0.5 * variance.log()).softmax(1)
        mean = means + alpha * deviations**2 / variance * away
        return (share * mean).sum(1, keepdim=True)

    return denoise


def draw_front(path: Path) -> None:
    """Density and paths from noise (left) to data (right): the flow, and one sample of the SDE."""
    from matplotlib.figure import Figure

    schedule = LinearVP()
    model = fastgen.Model(denoiser(schedule), schedule, "data")
    grid = np.linspace(1.0, 0.0, SEGMENTS + 1)
    # Time across is bent so that the last part, where the parts separate, has room.
    across = 1 - grid**0.6
    y = np.linspace(-3, 3, 400)
    shade = np.stack([density(y, schedule, t) ** 0.55 for t in grid], 1)
    noise = torch.linspace(-2.2, 2.2, 15, dtype=torch.float64)[:, None]
    common = {"trajectory": True, "timesteps": list(grid), "dtype": torch.float64}
    flow = fastgen.sample(model, noise, "heun", SEGMENTS, **common)[1]
    noisy = fastgen.sample(model, noise[::4], "ddpm", SEGMENTS, seed=4, **common)[1]
    figure = Figure(figsize=(12, 3.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.pcolormesh(across, y, shade, cmap="cividis", shading="gouraud", rasterized=True)
    axes.plot(across, noisy[:, :, 0].T.numpy().T, color="white", linewidth=0.7, alpha=0.6)
    axes.plot(across, flow[:, :, 0].numpy(), color=LIGHT, linewidth=1.3)
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(-3, 3))
    figure.savefig(path, dpi=130)


def draw_grids(path: Path) -> None:
    """Where 12 steps of every time grid stand, in time and in noise."""
    import matplotlib
    from matplotlib.figure import Figure

    schedule = LinearVP()
    names = [name for name in timesteps.names() if name != "table"]
    with matplotlib.rc_context({"svg.hashsalt": "fastgen", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 0.28 * len(names) + 0.9), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for row, name in enumerate(names):
            times = _times(name, schedule)
            left.plot(times, [row] * len(times), "|-", color="#0b5fa5", markersize=9, linewidth=0.6)
            sigmas = [schedule.sigma(t) / schedule.alpha(t) for t in times if t > 0]
            right.plot(sigmas, [row] * len(sigmas), "|", color="#b3470b", markersize=9)
        left.set_yticks(range(len(names)), names)
        left.set(xlabel="t", title="times")
        right.set(xscale="log", xlabel="sigma / alpha", title="noise (the last, 0, is left out)")
        for axes in (left, right):
            axes.invert_xaxis()
            axes.grid(True, alpha=0.3)
        left.invert_yaxis()
        figure.savefig(path, metadata={"Date": None})


def _times(name: str, schedule: Any) -> list[float]:
    """12 steps; those of grids of discrete levels on 1000 levels of the same schedule."""
    levels = DiscreteVP.linear(1000)
    try:
        return [float(t) for t in timesteps.times(name, schedule, 12)]
    except (ValueError, TypeError):
        return [float(t) for t in timesteps.times(name, levels, 12)]


def draw(app: Sphinx) -> None:
    """Draw what is not there, or is older than this file."""
    folder = Path(app.srcdir) / "figures" / "drawn"
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in (("front.png", draw_front), ("grids.svg", draw_grids)):
        path = folder / name
        if not path.exists() or path.stat().st_mtime < Path(__file__).stat().st_mtime:
            drawing(path)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hook."""
    app.connect("builder-inited", draw)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
