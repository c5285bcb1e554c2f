"""A small trainer: AdamW, an average of the weights, clipping, bfloat16, exact resumption.

Nothing random has a state: the order of the data and the noise are functions of (seed, step), as
`fastgen.noise` says. So a run that was killed goes on from its checkpoint with the very losses it
would have had.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastgen.networks as networks
from fastgen.common.checks import (
    check_at_least,
    check_floating,
    check_positive,
)
from fastgen.common.display import Unquoted, displayed
from fastgen.networks import Network
from fastgen.training.checkpoint import FIELDS, read, write
from fastgen.training.settings import Settings
from fastgen.training.steps import (
    ITEMS,
    dropped,
    finite_loss,
    follow_weights,
    optimiser,
    rate,
    uniform_of_ids,
)


@displayed
class Batch(NamedTuple):
    """data [B, ...]; labels [B] or None; step: its number, for `Path.sample`; seed of the run."""

    data: Tensor
    labels: Tensor | None
    step: int
    seed: int


Loss = Callable[[nn.Module, Batch], Tensor]


@displayed
class Trainer:
    """Trains a network on a loss, step by step.

    Args:
        network: trained in place; ``trainer.average`` is the average to sample with.
        loss: function of (network, `Batch`) that returns a scalar.
        data: all samples [N, ...], on the device of the network.
        labels: whole numbers [N] or None; the network's number of classes means that a sample has
            none.
        settings: see `Settings`.
        description: JSON-able facts stored with checkpoints (`fastgen.training.describe`). A
            network of `fastgen.networks`, an objective whose method the loss is, and the shape
            of a sample, are among them by themselves. Parameters that ask for no gradients stay
            as they are.

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
        data: Tensor,
        settings: Settings,
        labels: Tensor | None = None,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        check_floating("data", data, "[N, ...]")
        if len(data) == 0:
            raise ValueError("data: expected at least one sample, got none")
        if not bool(torch.isfinite(data).all()):
            raise ValueError("data: NaN or infinity among them")
        if labels is not None and labels.shape != (len(data),):
            raise ValueError(
                f"labels: expected one for each of {len(data)} samples, got {list(labels.shape)}"
            )
        classes = getattr(network, "classes", 0)
        if labels is not None and (labels.is_floating_point() or int(labels.min()) < 0):
            raise ValueError(
                f"labels: expected whole numbers >= 0, got {labels.dtype} from {labels.min()}"
            )
        if labels is not None and classes and int(labels.max()) > classes:
            raise ValueError(
                f"labels: expected 0 .. {classes - 1}, or {classes} for none, got "
                f"{int(labels.max())}; make the network with more classes"
            )
        self.network, self.loss, self.settings = network.train(), loss, settings
        self.data, self.labels, self.step = data, labels, 0
        self.description = dict(description or {})
        described = getattr(getattr(loss, "__self__", None), "to_config", None)
        if described is not None:
            self.description.setdefault("objective", described())
        if isinstance(network, Network) and networks.is_registered(network):
            self.description.setdefault("network", networks.to_config(network))
        self.description.setdefault("shape", list(data.shape[1:]))
        self.average = copy.deepcopy(network).requires_grad_(False).eval()
        self.optimiser = optimiser(network, settings)
        self._order: tuple[int, Tensor] | None = None

    def _facts(self) -> dict[str, Any]:
        settings = self.settings
        facts: dict[str, Any] = {"network": self.network, "loss": self.loss, "data": self.data}
        facts |= {"labels": self.labels} if self.labels is not None else {}
        facts["step"] = Unquoted(f"{self.step} of {settings.steps}")
        facts |= {"batch": settings.batch, "learning_rate": settings.learning_rate}
        return {**facts, "seed": settings.seed, "device": self.data.device}

    def batch(self, step: int) -> Batch:
        """The samples of a step: permutations of all data, one after another."""
        seed, size, count = self.settings.seed, self.settings.batch, len(self.data)
        first, parts = step * size, []
        while size:
            epoch, at = divmod(first, count)
            taken = min(size, count - at)
            parts.append(self._permutation(epoch)[at : at + taken])
            first, size = first + taken, size - taken
        chosen = torch.cat(parts)
        labels = None
        if self.labels is not None:
            labels = dropped(self.labels[chosen], self.network, self.settings, step, seed)
        return Batch(self.data[chosen], labels, step, seed)

    def _permutation(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            seed, device = self.settings.seed, self.data.device
            u = uniform_of_ids(seed, device, ITEMS, len(self.data), epoch)
            self._order = epoch, u.argsort(stable=True)
        return self._order[1]

    def run(
        self,
        steps: int | None = None,
        *,
        checkpoint: Path | str | None = None,
        every: int = 500,
        minutes: float | None = None,
        progress: bool = False,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> list[float]:
        """Train up to a step, by default to the end; the losses of the steps made.

        Args:
            steps: the step to stop after.
            checkpoint: file to save to every ``every`` steps and at the end.
            every: see ``checkpoint``.
            minutes: time limit; as it comes near, the learning rate falls early, so that such a run
                is not repeatable. One step is always made.
            progress: show a bar with the loss (needs tqdm).
            on_step: called as on_step(step, loss) after every step.

        Raises:
            ValueError: for ``every`` < 1 or ``minutes`` <= 0.
            FloatingPointError: if a loss is not finite, which is looked at every 50 steps and
                before saving; the last checkpoint is left as it was.
        """
        check_at_least("every", every, 1)
        if minutes is not None:
            check_positive("minutes", minutes, "None sets no limit", infinite=True)
        last = self.settings.steps if steps is None else min(steps, self.settings.steps)
        bar = _bar(last, self.step) if progress else None
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
                    on_step(self.step - 1, loss)
                if bar is not None:
                    bar.update()
                    if self.step % 50 == 0:
                        bar.set_postfix(loss=f"{loss.item():.4g}", refresh=False)
                if checkpoint is not None and (self.step % every == 0 or self.step == last):
                    finite_loss(self.step - 1, loss)
                    self.save(checkpoint)
        if bar is not None:
            bar.close()
        return torch.stack(losses).tolist() if losses else []

    def _advance(self, spent: float) -> Tensor:
        settings, step, device = self.settings, self.step, self.data.device.type
        # For networks that draw numbers themselves. On the CPU torch.manual_seed takes a hundred
        # times as long: it keeps a traceback for each kind of device that is not in use yet.
        seed = torch.default_generator.manual_seed if device == "cpu" else torch.manual_seed
        seed((settings.seed << 32) ^ step)
        self.optimiser.param_groups[0]["lr"] = rate(settings, step, spent)
        mixed = torch.autocast(device, torch.bfloat16) if settings.bfloat16 else nullcontext()
        with mixed:
            loss = self.loss(self.network, self.batch(step))
        if step % 50 == 0:
            finite_loss(step, loss)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.optimiser.step()
        follow_weights(self.average, self.network, settings, step)
        self.step += 1
        return loss.detach()

    def save(self, path: Path | str) -> None:
        """Write everything that is needed to go on, whole or not at all."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, p in self._trained():
            state = self.optimiser.state.get(p, {})
            if not state and self.step:  # without a gradient so far: as AdamW begins
                state = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                state["step"] = torch.zeros(())
            tensors |= {f"optimiser.{field}.{name}": state[field] for field in FIELDS if state}
        write(path, tensors, self.step, self.settings, self.description)

    def resume(self, path: Path | str) -> None:
        """Go on where `save` stopped.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or of other settings, another objective or another
                network; nothing has changed then.
        """
        path, trained = Path(path), self._trained()
        stored = read(path)
        stored.check_origin(self.settings, self.description)
        stored.check_tensors(self.network, self.average, dict(trained))
        self.network.load_state_dict(stored.part("network"))
        self.average.load_state_dict(stored.part("average"))
        self.step = stored.step
        self.optimiser.state.clear()
        for name, p in trained if stored.step else []:
            state = {field: stored.tensors[f"optimiser.{field}.{name}"] for field in FIELDS}
            self.optimiser.state[p] = {field: x.to(p.device) for field, x in state.items()}

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(k, p) for k, p in self.network.named_parameters() if p.requires_grad]


def _bar(total: int, done: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, desc="training", unit="step")
