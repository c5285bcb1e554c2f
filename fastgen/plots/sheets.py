"""Samples while a network trains, as pictures for files and trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgen.common.checks import check_at_least, check_sizes
from fastgen.common.display import displayed
from fastgen.common.files import replacing
from fastgen.plots.images import samples, sheet
from fastgen.sampling.sample import AnySolver, sample
from fastgen.training import Trainer


@displayed
class TrainingSheets:
    """Draws the same samples every few steps: ``trainer.run(watch=[(500, TrainingSheets(...))])``.

    Of the averaged weights, and of the data's own scale where the trainer has a scaling. Equal
    seeds begin with equal noise, so that pictures of different steps show one thing growing. The
    engine's trackers get the picture "samples"; if none takes it, or a folder is given, it is
    written there, as step-00000500.png. All processes draw, as sharded weights need, and the first
    one writes. Needs matplotlib.

    Args:
        objective: with ``model(network)``, such as `fastgen.training.Flow`.
        shape: of one sample. Images [C, H, W] make a sheet, points [2] a cloud.
        solver, steps: as for `fastgen.sample`.
        count: samples in a picture.
        seed: of the samples.
        net_kwargs: for the network, such as {"labels": labels [count]}.
        folder: for files; "samples" if it is None and they are needed.
        options: more for `fastgen.sample`: guidance, timesteps ...
    """

    def __init__(
        self,
        objective: Any,
        shape: Sequence[int],
        solver: AnySolver = "dpmpp_2m",
        steps: int = 20,
        *,
        count: int = 16,
        seed: int = 0,
        net_kwargs: Mapping[str, Any] | None = None,
        folder: Path | str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_at_least("count", count, 1)
        self.objective, self.shape = objective, (count, *check_sizes("shape", shape))
        self.solver, self.steps, self.seed = solver, steps, seed
        self.net_kwargs, self.options = dict(net_kwargs or {}), dict(options or {})
        self.folder = None if folder is None else Path(folder)

    def draw(self, trainer: Trainer) -> Tensor:
        """The samples [count, ...]."""
        device = trainer.feed.device
        given = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.net_kwargs.items()
        }
        found: Tensor = sample(
            self.objective.model(trainer.average),
            self.shape,
            self.solver,
            self.steps,
            seed=self.seed,
            device=device,
            net_kwargs=given,
            **self.options,
        )
        return found if trainer.scaling is None else trainer.scaling.decode(found)

    def __call__(self, trainer: Trainer) -> None:
        """Draw, and show or write."""
        found = self.draw(trainer)
        if trainer.engine.rank:
            return
        pixels = picture(found.float().cpu())
        taken = trainer.engine.log_image("samples", pixels, trainer.step)
        if self.folder is not None or not taken:
            folder = self.folder or Path("samples")
            write_png(folder / f"step-{trainer.step:08d}.png", pixels)


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Pixels [H, W, 3] as a file, at once or not at all."""
    from matplotlib.image import imsave

    with replacing(path) as file:
        imsave(file, pixels, format="png")


def picture(x: Tensor, smallest: int = 256) -> NDArray[np.uint8]:
    """Samples as pixels [H, W, 3] of bytes; small sheets of images are enlarged."""
    if x.ndim in (3, 4):
        found = (sheet(x) * 255).round().astype(np.uint8)
        zoom = max(1, smallest // max(found.shape[:2]))
        found = found.repeat(zoom, axis=0).repeat(zoom, axis=1)
    else:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4, 4), layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        with torch.no_grad():
            samples(x, ax=figure.add_subplot())
        canvas.draw()
        found = np.asarray(canvas.buffer_rgba())
    share = found[..., 3:].astype(np.float32) / 255  # what is transparent becomes white
    return (found[..., :3] * share + 255 * (1 - share)).round().astype(np.uint8)
