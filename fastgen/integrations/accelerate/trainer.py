"""`fastgen.training.Trainer`'s steps in a loop that accelerate runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fastgen.common.checks import check_at_least
from fastgen.common.display import Unquoted, displayed
from fastgen.integrations.common.training import (
    Learned,
    batch_of,
    loss_of_average,
    seed_of,
    with_dropped,
)
from fastgen.model.model import Model
from fastgen.training.settings import Settings
from fastgen.training.steps import finite_loss, follow_weights, optimiser, rate
from fastgen.training.trainer import Batch


@displayed
class AcceleratedTrainer:
    """``AcceleratedTrainer(network, Flow(), loader, Settings(steps=2000)).run()``.

    Loaders give data [B, ...], or (data, labels). Times and noise are functions of (seed, step),
    other ones in each process. With ``Accelerator(gradient_accumulation_steps=n)`` a step takes n
    batches.

    Args:
        network: trained in place; ``trainer.average`` is the average to sample with.
        objective: one of `fastgen.training` (Flow, Denoising, LatentScore), or a function of
            (network, `fastgen.training.Batch`) that returns a scalar.
        loader: of training data, gone through again and again.
        settings: see `fastgen.training.Settings`; ``batch`` is the loader's matter.
        accelerator: yours, or a new one (with bfloat16 if the settings say so).
        model: function of a network that returns a `fastgen.Model`, for an objective that is a
            function.
        validation: a loader for `validate`.

    Raises:
        ValueError: for bfloat16 in the settings and another precision in the accelerator.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Any,
        loader: Iterable[Any],
        settings: Settings,
        accelerator: Accelerator | None = None,
        *,
        model: Callable[[nn.Module], Model] | None = None,
        validation: Iterable[Any] | None = None,
    ) -> None:
        if accelerator is None:
            accelerator = Accelerator(mixed_precision="bf16" if settings.bfloat16 else None)
        elif settings.bfloat16 and accelerator.mixed_precision != "bf16":
            raise ValueError(
                f"settings: bfloat16=True, the accelerator has {accelerator.mixed_precision!r}; "
                "give Accelerator(mixed_precision='bf16')"
            )
        self.accelerator, self.settings = accelerator, settings
        self.learned, self.step = Learned(objective, model), 0
        self.network = network.train()
        made = optimiser(network, settings, fused=accelerator.mixed_precision != "fp16")
        # The whole loss, so that what is called is what accelerate synchronises and casts.
        whole = _Loss(network, self.learned)
        self._wrapped, self.optimiser, self.loader = accelerator.prepare(whole, made, loader)
        self.validation = None if validation is None else accelerator.prepare(validation)
        self.average = copy.deepcopy(network).requires_grad_(False).eval()
        self.average.to(accelerator.device)
        self._place, self._endless = _Place(), self._batches()
        accelerator.register_for_checkpointing(self.average, self._place)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"network": self.network, "loss": self.learned.loss}
        facts["step"] = Unquoted(f"{self.step} of {self.settings.steps}")
        facts |= {"learning_rate": self.settings.learning_rate, "seed": self.settings.seed}
        return {**facts, "device": self.accelerator.device}

    def model(self) -> Model:
        """The averaged network as a model, for `fastgen.sample` and `save_pretrained`."""
        return self.learned.model(self.average)

    def run(
        self,
        steps: int | None = None,
        *,
        checkpoint: Path | str | None = None,
        every: int = 500,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> list[float]:
        """Train up to a step, by default to the end; the losses of the steps made.

        A loss is this process's, and the mean of its batches. Trackers of the accelerator get
        "loss" and "learning_rate".

        Args:
            steps: the step to stop after.
            checkpoint: folder to save to every ``every`` steps and at the end.
            every: see ``checkpoint``.
            on_step: called as on_step(step, loss) after every step.

        Raises:
            FloatingPointError: if a loss is not finite, looked at every 50 steps and before saving.
            ValueError: for a loader without batches.
        """
        check_at_least("every", every, 1)
        last = self.settings.steps if steps is None else min(steps, self.settings.steps)
        losses: list[Tensor] = []
        parts: list[Tensor] = []
        while self.step < last:
            found = next(self._endless)
            with self.accelerator.accumulate(self._wrapped):
                parts.append(self._advance(found))
            if not self.accelerator.sync_gradients:
                continue
            loss = torch.stack(parts).mean()
            parts.clear()
            losses.append(loss)
            self.step += 1
            saving = checkpoint is not None and (self.step % every == 0 or self.step == last)
            if self.step % 50 == 1 or saving:
                self._report(loss)
            if on_step is not None:
                on_step(self.step - 1, loss)
            if checkpoint is not None and saving:
                self.save(checkpoint)
        return torch.stack(losses).tolist() if losses else []

    def _advance(self, found: Any) -> Tensor:
        """Forward and backward of a batch; the optimiser's step where one is due."""
        accelerator, settings = self.accelerator, self.settings
        seed = seed_of(settings.seed, accelerator.process_index)
        batch = with_dropped(batch_of(found, self._place.draws, seed), self.network, settings)
        self._place.draws += 1
        self._place.batch += 1
        for group in self.optimiser.param_groups:
            group["lr"] = rate(settings, self.step)
        loss: Tensor = self._wrapped(*batch)
        accelerator.backward(loss)
        if accelerator.sync_gradients and settings.clip is not None:
            accelerator.clip_grad_norm_(self._wrapped.parameters(), settings.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        if accelerator.sync_gradients:
            follow_weights(self.average, self.network, settings, self.step)
        return loss.detach()

    def validate(self) -> float:
        """The mean loss of the averaged weights over the validation data of all processes.

        The noise is the same every time.

        Raises:
            ValueError: without validation data.
        """
        if self.validation is None:
            raise ValueError("validate: give AcceleratedTrainer(..., validation=loader)")
        total = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        seed = seed_of(self.settings.seed, self.accelerator.process_index)
        for k, found in enumerate(self.validation):
            with self.accelerator.autocast():
                loss, count = loss_of_average(self.learned, self.average, found, k, seed)
            total += torch.stack([loss.double() * count, torch.full_like(total[0], count)])
        summed: Any = self.accelerator.reduce(total, "sum")
        if not summed[1]:
            raise ValueError("validation: the loader has no batches")
        mean = float(summed[0] / summed[1])
        self.accelerator.log({"val_loss": mean}, step=self.step)
        return mean

    def save(self, folder: Path | str) -> None:
        """Write all that is needed to go on (accelerate's ``save_state``)."""
        self._place.step = self.step
        self.accelerator.save_state(str(folder))

    def resume(self, folder: Path | str) -> None:
        """Go on where `save` stopped, on the same data in the same order.

        A loader that shuffles has its order again with
        ``DataLoaderConfiguration(use_seedable_sampler=True)``.

        Raises:
            FileNotFoundError: if there is no such folder.
        """
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
        self.accelerator.load_state(str(folder))
        self.step, self._endless = self._place.step, self._batches()

    def _batches(self) -> Iterator[Any]:
        """Batches without end, from where a resumed run stopped."""
        while True:
            place = self._place
            if hasattr(self.loader, "set_epoch"):
                self.loader.set_epoch(place.epoch)
            rest: Any = self.loader
            if place.batch:
                rest = self.accelerator.skip_first_batches(self.loader, place.batch)
            before = place.draws
            yield from rest
            if place.draws == before and not place.batch:
                raise ValueError("loader: it has no batches")
            place.epoch, place.batch = place.epoch + 1, 0

    def _report(self, loss: Tensor) -> None:
        value = finite_loss(self.step - 1, loss)
        facts = {"loss": value, "learning_rate": rate(self.settings, self.step - 1)}
        self.accelerator.log(facts, step=self.step)


class _Loss(nn.Module):
    """An objective's loss as a module around the network."""

    def __init__(self, network: nn.Module, learned: Learned) -> None:
        super().__init__()
        self.network, self.learned = network, learned

    def forward(self, data: Tensor, labels: Tensor | None, step: int, seed: int) -> Tensor:
        """Of one batch."""
        return self.learned.loss(self.network, Batch(data, labels, step, seed))


class _Place:
    """Where a run is, for accelerate's checkpoints: which noise and which batch comes next."""

    def __init__(self) -> None:
        self.step = self.draws = self.epoch = self.batch = 0

    def state_dict(self) -> dict[str, int]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, int]) -> None:
        for name in vars(self):
            setattr(self, name, int(state[name]))
