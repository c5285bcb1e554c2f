"""The picture that `fastgen train` ends with: samples beside the data."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fastgen.common.files import replacing
from fastgen.model import Model
from fastgen.sampling.sample import sample
from fastgen.training import Scaling

SOLVER, STEPS = "heun", 20
POINTS, IMAGES = 2000, 64


def drawable(shape: tuple[int, ...]) -> bool:
    """Whether samples of that shape can be drawn: points in the plane, grey and colour images."""
    return shape == (2,) or (len(shape) == 3 and shape[0] in (1, 3))


def write_picture(
    path: Path,
    model: Model,
    data: Tensor,
    labels: Tensor | None,
    seed: int,
    scaling: Scaling | None = None,
) -> None:
    """Data beside samples of a model, and in the plane the ways that samples take, as PNG.

    Args:
        path: written at once or not at all.
        model: what was trained.
        data: [N, 2] or [N, 1 or 3, H, W], what it was trained on.
        labels: [N], the classes of data, or None. Samples have those of the data beside them.
        seed: of the samples.
        scaling: of the data, which the model has learned scaled.
    """
    from matplotlib.figure import Figure

    import fastgen.plots as plots

    planar = data.ndim == 2
    # Evenly over the data, which may be ordered by class.
    chosen = torch.linspace(
        0, len(data) - 1, min(len(data), POINTS if planar else IMAGES), device="cpu"
    ).long()
    shown = data[chosen]
    given = {} if labels is None else {"labels": labels[chosen]}
    x, states = sample(
        model, tuple(shown.shape), SOLVER, STEPS, seed=seed, trajectory=True, net_kwargs=given
    )
    if scaling is not None:
        x, states = scaling.decode(x), torch.stack([scaling.decode(state) for state in states])
    figure = Figure(figsize=(12.0, 4.2) if planar else (8.4, 4.4), layout="constrained")
    axes = figure.subplots(1, 3 if planar else 2)
    for axis, title, points in ((axes[0], "data", shown), (axes[-1], "samples", x)):
        plots.samples(points, ax=axis, title=title)
    if planar:
        plots.trajectories(states, ax=axes[1], title="from noise (grey) to samples")
        every = torch.cat([shown, x, states[0].to(x)])
        reach = 1.1 * float(every.abs().max())
        for axis in axes:
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
            if scaling is not None:  # coordinates of scales of their own
                low, high = every.min(0).values.tolist(), every.max(0).values.tolist()
                axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="auto")
    with replacing(path) as file:
        figure.savefig(file, dpi=120, format="png")
