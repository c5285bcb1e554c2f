"""A LightningModule that trains a network on an objective, as `fastgen.training.Trainer` does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from fastgen.integrations.common.training import (
    Learned,
    batch_of,
    loss_of_average,
    seed_of,
    with_dropped,
)
from fastgen.model.model import Model
from fastgen.training.settings import Settings
from fastgen.training.steps import Averaged, optimiser, rate


class TrainingModule(LightningModule):
    """``Trainer(max_steps=2000).fit(TrainingModule(network, Flow()), loader)``.

    Loaders give data [B, ...], or (data, labels). Losses are logged as "loss" and, of the averaged
    weights, "val_loss". Batches, precision, clipping, devices and checkpoints are the Trainer's.
    Times and noise are functions of (seed, step), other ones in each process, so that a run that
    goes on from a checkpoint draws what it would have drawn.

    Args:
        network: trained in place; ``module.average`` is the average to sample with.
        objective: one of `fastgen.training` (Flow, Denoising, LatentScore), or a function of
            (network, `fastgen.training.Batch`) that returns a scalar.
        model: function of a network that returns a `fastgen.Model`, for such a function.
        learning_rate, warm_up, decay, weight_decay, betas, average, label_dropout, seed: see
            `fastgen.training.Settings`. The cosine ends at the Trainer's last step.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Any,
        *,
        model: Callable[[nn.Module], Model] | None = None,
        learning_rate: float = 1e-3,
        warm_up: int = 100,
        decay: str = "cosine",
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        average: float = 0.998,
        label_dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.settings = Settings(
            learning_rate=learning_rate,
            warm_up=warm_up,
            decay=decay,
            weight_decay=weight_decay,
            betas=betas,
            average=average,
            label_dropout=label_dropout,
            seed=seed,
        )
        self.learned = Learned(objective, model)
        self.network = network
        self._averaged = Averaged(network, average)
        self.draws = 0  # batches so far, of all epochs, whose times and noise are taken
        self.save_hyperparameters(ignore=["network", "objective", "model"])

    def model(self) -> Model:
        """The averaged network as a model, for `fastgen.sample` and `save_pretrained`."""
        return self.learned.model(self.average)

    @property
    def average(self) -> nn.Module:
        """The network with averaged weights, in evaluation mode.

        Only when asked for: Lightning warns of parts that are so when training starts.
        """
        return self._averaged.module.eval()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        seed = seed_of(self.settings.seed, self.global_rank)
        drawn = with_dropped(batch_of(batch, self.draws, seed), self.network, self.settings)
        self.draws += 1
        loss: Tensor = self.learned.loss(self.network, drawn)
        self.log("loss", loss, prog_bar=True, batch_size=len(drawn.data))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss of the averaged weights, with the same noise every time."""
        seed = seed_of(self.settings.seed, self.global_rank)
        loss, count = loss_of_average(self.learned, self.average, batch, batch_idx, seed)
        self.log("val_loss", loss, prog_bar=True, batch_size=count, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW and the rate of each step.

        Raises:
            ValueError: for a cosine without an end.
        """
        steps, settings = self.trainer.estimated_stepping_batches, self.settings
        if not math.isfinite(steps):
            if settings.decay == "cosine":
                raise ValueError(
                    "decay='cosine' needs an end: give Trainer(max_steps=) or (max_epochs=), or "
                    "decay='constant'"
                )
            steps = 1
        planned = Settings(**{**vars(settings), "steps": max(1, int(steps))})
        # Lightning cannot clip gradients that a fused step unscales.
        made = optimiser(
            self.network.parameters(), planned, fused=self.trainer.precision != "16-mixed"
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            made, lambda step: rate(planned, step) / planned.learning_rate
        )
        return {"optimizer": made, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """As Lightning's, then the average follows."""
        super().optimizer_step(*args, **kwargs)
        self._averaged.update_parameters(self.network)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store which noise comes next."""
        checkpoint["fastgen_draws"] = self.draws

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with that noise."""
        self.draws = int(checkpoint.get("fastgen_draws", 0))
