"""A callback that samples while a module trains, and logs the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from fastgen.common.checks import check_at_least, check_sizes
from fastgen.integrations.lightning.module import TrainingModule
from fastgen.plots.sheets import picture, write_png
from fastgen.sampling.sample import sample


class SampleSheets(Callback):
    """Draws the same samples after every few epochs of training, of the averaged weights.

    Equal seeds begin with equal noise, so that pictures of different steps show one thing growing.
    A logger with ``log_image`` (Weights & Biases) or ``add_image`` (TensorBoard) gets the picture;
    where there is none it is written into ``folder``. Needs matplotlib.

    Args:
        shape: of one sample. Images [C, H, W] make a sheet, points [2] a cloud.
        solver, steps: as for `fastgen.sample`.
        count: samples in a picture.
        every: epochs between pictures.
        seed: of the samples.
        net_kwargs: for the network, such as {"labels": labels [count]}.
        folder: where pictures are written, step-00000500.png; None: in the log's folder, and only
            if no logger takes them.
        options: more for `fastgen.sample`: guidance, timesteps ...
    """

    def __init__(
        self,
        shape: Sequence[int],
        solver: str = "dpmpp_2m",
        steps: int = 20,
        *,
        count: int = 16,
        every: int = 1,
        seed: int = 0,
        net_kwargs: Mapping[str, Any] | None = None,
        folder: Path | str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_at_least("count", count, 1)
        check_at_least("every", every, 1)
        self.shape = (count, *check_sizes("shape", shape, "that of one sample"))
        self.solver, self.steps, self.every, self.seed = solver, steps, every, seed
        self.net_kwargs, self.options = dict(net_kwargs or {}), dict(options or {})
        self.folder = None if folder is None else Path(folder)

    def draw(self, module: TrainingModule) -> Tensor:
        """The samples [count, ...]."""
        device = module.device
        given = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.net_kwargs.items()
        }
        found: Tensor = sample(
            module.model(),
            self.shape,
            self.solver,
            self.steps,
            seed=self.seed,
            device=device,
            net_kwargs=given,
            **self.options,
        )
        return found

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and log, in the first process."""
        if (trainer.current_epoch + 1) % self.every or not trainer.is_global_zero:
            return
        if not isinstance(pl_module, TrainingModule):
            kind = type(pl_module).__name__
            raise TypeError(f"SampleSheets: expected to train a TrainingModule, got {kind}")
        pixels = picture(self.draw(pl_module).float().cpu())
        step, taken = trainer.global_step, False
        for logger in trainer.loggers:
            experiment = logger.experiment
            if hasattr(logger, "log_image"):
                logger.log_image(key="samples", images=[pixels], step=step)
            elif hasattr(experiment, "add_image"):
                experiment.add_image("samples", pixels, step, dataformats="HWC")
            else:
                continue
            taken = True
        folder = self.folder
        if folder is None and not taken:
            folder = Path(trainer.log_dir or trainer.default_root_dir) / "samples"
        if folder is not None:
            write_png(folder / f"step-{step:08d}.png", pixels)
