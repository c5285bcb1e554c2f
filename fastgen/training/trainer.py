"""A trainer: AdamW, an average of the weights, clipping, exact resumption; on any engine.

Nothing random has a state: the order of the data and the noise are functions of (seed, step, row),
as `fastgen.noise` says. So a run that was killed goes on from its checkpoint with the very losses
it would have had, and a run on several processes has those of one, to rounding.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastgen.networks as networks
from fastgen.common.checks import check_at_least, check_positive
from fastgen.common.display import Unquoted, displayed
from fastgen.networks import Network
from fastgen.training import states
from fastgen.training.batch import Batch, Loss, by_row
from fastgen.training.engine import Engine, Whole
from fastgen.training.feed import Feed
from fastgen.training.order import check_labels
from fastgen.training.run import check_parts
from fastgen.training.scaling import Scaling, warn_if_far
from fastgen.training.settings import Settings
from fastgen.training.steps import (
    Averaged,
    dropped,
    finite_loss,
    flipped,
    rate,
)
from fastgen.training.validation import Validation

Schedule = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
Watch = tuple[int, Callable[["Trainer"], Any]]


@displayed
class Trainer:
    """Trains a network on a loss, step by step.

    Args:
        network: trained in place; ``trainer.average`` is the average to sample with.
        loss: function of (network, `Batch`) that returns a scalar.
        data: all samples [N, ...]; or a set that is read from a disk, see `fastgen.datasets`.
        labels: whole numbers [N] or None; the network's number of classes means that a sample has
            none. Sets bring their own.
        settings: see `Settings`.
        description: JSON-able facts stored with checkpoints (`fastgen.training.describe`). A
            network of `fastgen.networks`, an objective whose method the loss is, the shape of a
            sample and the scaling are among them by themselves. Parameters that ask for no
            gradients stay as they are.
        engine: who places, casts and synchronises; the default is this process alone.
        scaling: of the data, which the network sees scaled, such as ``Scaling.of(data)``.
        validation: held-out samples, or (samples, labels), for `validate`.
        schedule: function of the optimiser that returns a learning-rate schedule of torch, stepped
            after each step, instead of the settings' warm_up and decay.
        workers: processes that read sets ahead.
        on_corrupt: "raise", or "skip": a sample of a set that cannot be read is reported, and the
            next one takes its place.

    Raises:
        ValueError: naming the argument that does not fit.

    Example:
        >>> from fastgen.training import Flow, Settings, Trainer
        >>> objective = Flow()
        >>> network = fastgen.networks.MLP(shape=(2,), widths=(32, 32))
        >>> data = fastgen.randn((512, 2), seed=1) + 4
        >>> trainer = Trainer(network, objective.loss, data, Settings(steps=20, batch=64))
        >>> len(trainer.run())
        20
        >>> model = objective.model(trainer.average)  # a fastgen.Model, to sample from
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        data: Any,
        settings: Settings,
        labels: Tensor | None = None,
        description: Mapping[str, Any] | None = None,
        *,
        engine: Engine | None = None,
        scaling: Scaling | None = None,
        validation: Any = None,
        schedule: Schedule | None = None,
        workers: int = 0,
        on_corrupt: str = "raise",
    ) -> None:
        check_parts(network, loss, settings, engine, scaling, schedule, description)
        self.engine = engine = Engine() if engine is None else engine
        engine.check(settings)
        self.settings, self.scaling, self.step = settings, scaling, 0
        self.feed = Feed(
            data,
            labels,
            settings,
            rank=engine.rank,
            processes=engine.processes,
            device=engine.device,
            workers=workers,
            on_corrupt=on_corrupt,
        )
        if scaling is None:
            warn_if_far(data, loss, on_corrupt)
        self.classes = getattr(network, "classes", 0)
        check_labels(self.feed.labels, len(data), self.classes)
        self.network, self.data, self.labels = network.train(), self.feed.data, self.feed.labels
        self.description = _described(network, loss, self.feed.shape, scaling, description)
        self._averaged = Averaged(network, settings.average)
        self.whole = Whole(network, loss)
        self._called, self.optimiser = engine.prepare(self.whole, self._averaged.module, settings)
        self._schedule, self._scheduler = schedule, self._scheduled(schedule)
        self.validation = None if validation is None else Validation(validation, self)
        self.validated: dict[int, float] = {}

    def _facts(self) -> dict[str, Any]:
        settings = self.settings
        facts: dict[str, Any] = {"network": self.network, "loss": self.loss, "data": self.data}
        facts |= {"labels": self.labels} if self.labels is not None else {}
        facts["step"] = Unquoted(f"{self.step} of {settings.steps}")
        facts |= {"batch": settings.batch, "learning_rate": settings.learning_rate}
        if self.engine.processes > 1:
            facts["processes"] = self.engine.processes
        return {**facts, "seed": settings.seed, "device": self.feed.device}

    @property
    def loss(self) -> Loss:
        """Function of (network, `Batch`)."""
        return self.whole.loss

    @loss.setter
    def loss(self, loss: Loss) -> None:
        self.whole.loss = loss

    @property
    def average(self) -> nn.Module:
        """The network with averaged weights, in evaluation mode."""
        return self._averaged.module

    def batch(self, step: int) -> Batch:
        """The process's samples of a step, as the network is to see them."""
        settings, first = self.settings, self.feed.first
        data, labels = self.feed(step)
        if self.scaling is not None:
            data = self.scaling.encode(data)
        if settings.flip:
            data = flipped(data, step, settings.seed, first)
        if labels is not None:
            labels = dropped(labels, self.network, settings, step, settings.seed, first)
        return Batch(data, labels, step, settings.seed, first, settings.batch)

    def _parts(self, step: int) -> Sequence[Batch]:
        """What is called one after another in a step."""
        engine, batch = self.engine, self.batch(step)
        if engine.processes * engine.accumulate == 1:
            return [batch]
        objective: Any = getattr(self.loss, "__self__", None)
        if getattr(objective, "coupling", "independent") != "independent":
            batch = self._paired(objective.paired, batch)
        size = self.settings.batch // (engine.processes * engine.accumulate)
        parts = [batch.rows(k * size, size) for k in range(engine.accumulate)]
        if by_row(self.loss):
            return parts
        return [b._replace(seed=b.seed + (b.first // size << 32)) for b in parts]

    def _paired(self, pair: Callable[[nn.Module, Batch], Batch], batch: Batch) -> Batch:
        """The rows of this process, after the whole step's batch was coupled.

        Every process couples the same batch and finds the same pairs: none waits for another.
        """
        engine, first, count = self.engine, batch.first, len(batch.data)
        labels = None if batch.labels is None else engine.gather(batch.labels)
        whole = batch._replace(data=engine.gather(batch.data), labels=labels, first=0)
        return pair(self.network, whole).rows(first, count)

    def run(
        self,
        steps: int | None = None,
        *,
        checkpoint: Path | str | None = None,
        every: int = 500,
        minutes: float | None = None,
        progress: bool = False,
        on_step: Callable[[int, Tensor], None] | None = None,
        validate: int | None = None,
        watch: Sequence[Watch] = (),
    ) -> list[float]:
        """Train up to a step, by default to the end; the losses of the steps made.

        A loss is the mean over the whole batch, of all processes. The engine's trackers get "loss"
        and "learning_rate" every 50 steps, and "val_loss".

        Args:
            steps: the step to stop after.
            checkpoint: where to save every ``every`` steps and at the end, see `save`.
            every: see ``checkpoint``.
            minutes: time limit; as it comes near, the learning rate falls early, so that such a run
                is not repeatable. One step is always made.
            progress: show a bar with the loss (needs tqdm).
            on_step: called as on_step(step, loss) after every step.
            validate: steps between calls of `validate`, and at the end; ``trainer.validated`` keeps
                what it finds.
            watch: pairs (n, function): called with the trainer after every n steps, and at the end,
                on all processes; `fastgen.plots.SampleSheets` for instance.

        Raises:
            ValueError: for ``every`` < 1 or ``minutes`` <= 0.
            FloatingPointError: if a loss is not finite, which is looked at every 50 steps and
                before saving; the last checkpoint is left as it was.
        """
        due = self._due(checkpoint, every, validate, watch)
        self._check_minutes(minutes)
        last = self.settings.steps if steps is None else min(steps, self.settings.steps)
        bar = _bar(last, self.step) if progress and not self.engine.rank else None
        start = time.perf_counter()
        losses: list[Tensor] = []
        with torch.random.fork_rng(devices=[]):
            while self.step < last:
                spent = 0.0 if minutes is None else (time.perf_counter() - start) / (60 * minutes)
                if spent >= 1 and losses:
                    break
                loss = self._advance(spent)
                losses.append(loss)
                if on_step is not None:
                    on_step(self.step - 1, self.engine.mean(loss))
                if bar is not None:
                    bar.update()
                    if self.step % 50 == 0:
                        bar.set_postfix(loss=f"{loss.item():.4g}", refresh=False)
                for n, call in due:
                    if self.step % n == 0 or self.step == last:
                        finite_loss(self.step - 1, self.engine.mean(loss))
                        call()
        if bar is not None:
            bar.close()
        return self.engine.mean(torch.stack(losses)).tolist() if losses else []

    def _due(
        self,
        checkpoint: Path | str | None,
        every: int,
        validate: int | None,
        watch: Sequence[Watch],
    ) -> list[tuple[int, Callable[[], Any]]]:
        """What is called every so many steps; saving comes last."""
        check_at_least("every", every, 1)
        due: list[tuple[int, Callable[[], Any]]] = []
        if validate is not None:
            check_at_least("validate", validate, 1)
            self._check_validation()
            due.append((validate, self.validate))
        for n, function in watch:
            check_at_least("watch", n, 1)
            due.append((n, lambda function=function: function(self)))  # type: ignore[misc]
        if checkpoint is not None:
            due.append((every, lambda: self.save(checkpoint)))
        return due

    def _check_minutes(self, minutes: float | None) -> None:
        if minutes is None:
            return
        check_positive("minutes", minutes, "None sets no limit", infinite=True)
        if self.engine.processes > 1 or self._scheduler is not None:
            raise ValueError(
                f"minutes={minutes}: a limit of time needs one process, whose clock all go by, and "
                "the settings' own decay, which it ends early; give steps"
            )

    def _advance(self, spent: float) -> Tensor:
        settings, step, engine = self.settings, self.step, self.engine
        if self._scheduler is None:
            for group in self.optimiser.param_groups:
                group["lr"] = rate(settings, step, spent)
        parts = self._parts(step)
        engine.settle(self._called, parts[0])
        losses = []
        for batch in parts:
            self._seed(step, batch.first)
            with engine.accumulating(self._called):
                with engine.autocast():
                    loss = self._called(*batch)
                if batch is parts[0]:  # torch's own: accelerate's leaves those of part steps
                    getattr(self.optimiser, "optimizer", self.optimiser).zero_grad()
                engine.backward(loss)
                losses.append(loss.detach())
        mean = losses[0] if len(losses) == 1 else torch.stack(losses).mean()
        if step % 50 == 0:
            value = finite_loss(step, engine.mean(mean))
            facts = {"loss": value, "learning_rate": self.optimiser.param_groups[0]["lr"]}
            engine.log(facts, step)
        if settings.clip is not None:
            engine.clip(self.network.parameters(), settings.clip)
        self.optimiser.step()
        if self._scheduler is not None:
            self._scheduler.step()
        self._averaged.update_parameters(self.network)
        self.step += 1
        return mean

    def _seed(self, step: int, first: int) -> None:
        """For networks that draw numbers themselves."""
        # On the CPU torch.manual_seed takes a hundred times as long: it keeps a traceback for each
        # kind of device that is not in use yet.
        cpu = self.feed.device.type == "cpu"
        seed = torch.default_generator.manual_seed if cpu else torch.manual_seed
        seed(((self.settings.seed << 32) ^ step) + (first << 20))

    def validate(self) -> float:
        """The mean loss of the averaged weights over the validation data.

        The noise is the same every time, whatever the number of processes.

        Raises:
            ValueError: without validation data.
        """
        self._check_validation()
        assert self.validation is not None
        found = self.validated[self.step] = self.validation(self)
        self.engine.log({"val_loss": found}, self.step)
        return found

    def _check_validation(self) -> None:
        if self.validation is None:
            raise ValueError("validate: give Trainer(..., validation=held_out)")

    def _scheduled(self, schedule: Schedule | None) -> torch.optim.lr_scheduler.LRScheduler | None:
        """A schedule of torch at this step, to which it is stepped from its start."""
        if schedule is None:
            return None
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate
            group.pop("initial_lr", None)
        found = schedule(getattr(self.optimiser, "optimizer", self.optimiser))
        if isinstance(found, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise TypeError(
                "schedule: ReduceLROnPlateau depends on losses, and not on the step alone; a run "
                "could not be gone on with"
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of")  # before the optimiser's step
            for _ in range(self.step):
                found.step()
        return found

    def save(self, path: Path | str) -> None:
        """Write everything that is needed to go on, whole or not at all.

        To one file where the name ends in .safetensors, gathered by the first process: what
        `fastgen.training.load` reads. Otherwise to a folder of `torch.distributed.checkpoint`, to
        which each process writes its share of sharded weights. Both are gone on with on any number
        of processes: at the same number with the same bits, at another to rounding.
        """
        states.save(self, Path(path))

    def resume(self, path: Path | str) -> None:
        """Go on where `save` stopped.

        Raises:
            FileNotFoundError: if there is no such file or folder.
            ValueError: if it is damaged, or of other settings, another objective or another
                network; nothing has changed then.
        """
        states.resume(self, Path(path))
        self._averaged.n_averaged.fill_(self.step)
        self._scheduler = self._scheduled(self._schedule)


def _described(
    network: nn.Module,
    loss: Loss,
    shape: Sequence[int],
    scaling: Scaling | None,
    description: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What is stored with checkpoints, as far as it is known."""
    found = dict(description or {})
    described = getattr(getattr(loss, "__self__", None), "to_config", None)
    if described is not None:
        found.setdefault("objective", described())
    if isinstance(network, Network) and networks.is_registered(network):
        found.setdefault("network", networks.to_config(network))
    found.setdefault("shape", list(shape))
    if scaling is not None:
        found["scaling"] = scaling.to_config()
    return found


def _bar(total: int, done: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, desc="training", unit="step")
