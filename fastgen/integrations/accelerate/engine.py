"""The engine that accelerate is: DDP, FSDP2, precision, accumulation, trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from fastgen.common.display import displayed
from fastgen.training.batch import Batch
from fastgen.training.engine import Engine, Whole
from fastgen.training.settings import Settings
from fastgen.training.steps import optimiser


@displayed
class Accelerated(Engine):
    """``Trainer(network, loss, data, settings, engine=Accelerated())``, under any launcher.

    What the accelerator was told holds: its processes and devices (``accelerate launch``,
    ``torchrun``, SLURM's srun with torchrun), mixed_precision, gradient_accumulation_steps, an
    FSDP2 plugin, a dynamo backend, log_with. A step takes ``settings.batch`` samples in all,
    whatever the number of processes.

    Args:
        accelerator: yours; or a new one, with bfloat16 if ``mixed_precision`` says so.
        options: of a new one, as accelerate's Accelerator takes them.

    Raises:
        TypeError: for both.
        ValueError: for FSDP1, DeepSpeed and Megatron, whose optimisers are their own.
    """

    def __init__(self, accelerator: Accelerator | None = None, **options: Any) -> None:
        if accelerator is not None and options:
            raise TypeError(f"{', '.join(options)}: for a new Accelerator; give them to yours")
        self.accelerator = accelerator = accelerator or Accelerator(**options)
        kind = str(accelerator.distributed_type).rsplit(".", 1)[-1]
        if kind in ("DEEPSPEED", "MEGATRON_LM") or (kind == "FSDP" and not accelerator.is_fsdp2):
            raise ValueError(
                f"accelerator: {kind} is not supported; shard with FSDP2, "
                "FullyShardedDataParallelPlugin(fsdp_version=2)"
            )
        super().__init__(accelerator.gradient_accumulation_steps)
        self.rank, self.processes = accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device
        self._settled: Callable[..., Tensor] | None = None

    def _facts(self) -> dict[str, Any]:
        kind = str(self.accelerator.distributed_type).rsplit(".", 1)[-1]
        facts = {**super()._facts(), "kind": kind, "device": self.device}
        return {**facts, "mixed_precision": self.accelerator.mixed_precision}

    def check(self, settings: Settings) -> None:
        """As `Engine.check`; and the precision is the accelerator's.

        Raises:
            ValueError: also for bfloat16 in the settings and another precision in the accelerator.
        """
        super().check(settings)
        if settings.bfloat16 and self.accelerator.mixed_precision != "bf16":
            raise ValueError(
                f"settings: bfloat16=True, the accelerator has "
                f"{self.accelerator.mixed_precision!r}; give Accelerated(mixed_precision='bf16')"
            )

    def prepare(
        self, whole: Whole, average: nn.Module, settings: Settings
    ) -> tuple[Callable[..., Tensor], torch.optim.Optimizer]:
        """Place and wrap, or shard network and average alike."""
        accelerator = self.accelerator
        whole.to(self.device)
        average.to(self.device)
        # Steps of half precision are unscaled by accelerate, and those of shards made by torch:
        # neither goes with a fused optimiser.
        plain = accelerator.mixed_precision == "fp16" or accelerator.is_fsdp2
        made = optimiser(whole.parameters(), settings, fused=not plain)
        called, wrapped = accelerator.prepare(whole, made)
        if isinstance(whole, FSDPModule):
            self._shard(whole, average)
        return called, wrapped

    def _shard(self, whole: nn.Module, average: nn.Module) -> None:
        """Shard the average as accelerate sharded the network."""
        plugin: Any = self.accelerator.state.fsdp_plugin
        policy = plugin.mixed_precision_policy or MixedPrecisionPolicy()
        mesh = next(iter(whole.parameters())).device_mesh  # type: ignore[attr-defined]
        names = [k for k, m in whole.network.named_modules() if k and isinstance(m, FSDPModule)]  # type: ignore[union-attr]
        options: dict[str, Any] = {"mesh": mesh, "mp_policy": policy}
        for name in [*reversed(names), ""]:
            # There is no backward pass, after which torch shards the outermost weights again.
            fully_shard(average.get_submodule(name), reshard_after_forward=True, **options)

    def settle(self, called: Callable[..., Tensor], batch: Batch) -> None:
        """One gradient that nobody uses, of three processes or more that hold the whole network.

        In its first backward pass DDP notes when each gradient came, and puts them into other
        buckets for all passes after it. Where in a bucket a number lies decides in which order the
        processes' parts are added: so without this the first step after `Trainer.resume` has other
        last bits than the same step of a run that went on. Two numbers have one order.
        """
        if called is self._settled:
            return
        self._settled = called
        inner = getattr(called, "_orig_mod", called)  # beneath torch.compile
        if self.processes < 3 or not isinstance(inner, DistributedDataParallel):
            return
        buffers = [(buffer, buffer.clone()) for buffer in inner.buffers()]
        with self.autocast():
            loss = called(*batch)
        self.accelerator.backward(loss)
        inner.zero_grad()
        for buffer, before in buffers:
            buffer.copy_(before)

    def autocast(self) -> AbstractContextManager[Any]:
        """accelerate casts what it wrapped; this is for losses of the average."""
        found: AbstractContextManager[Any] = self.accelerator.autocast()
        return found

    def accumulating(self, called: Any) -> AbstractContextManager[Any]:
        """Gradients are synchronised with the last part."""
        found: AbstractContextManager[Any] = self.accelerator.accumulate(called)
        return found

    def backward(self, loss: Tensor) -> None:
        """Scaled as precision and accumulation need it."""
        self.accelerator.backward(loss)

    def clip(self, parameters: Iterable[nn.Parameter], norm: float) -> None:
        """By the norm over all processes."""
        self.accelerator.clip_grad_norm_(list(parameters), norm)

    def mean(self, x: Tensor) -> Tensor:
        """Over the processes."""
        if self.processes == 1:
            return x
        # Gathered, and not reduced: there the place in x decides in which order parts are added.
        return self.gather(x[None]).mean(0)

    def gather(self, x: Tensor) -> Tensor:
        """The rows of all processes, by rank."""
        found: Tensor = self.accelerator.gather(x.contiguous())
        return found

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()

    def end(self) -> None:
        """accelerate's ``end_training``; processes that leave without it may be taken for lost."""
        self.accelerator.end_training()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """To the trackers of ``accelerator.init_trackers``."""
        self.accelerator.log(dict(values), step=step)

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> bool:
        """To those trackers that take pictures."""
        taken = False
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                # TensorBoard's writer takes the channels first unless it is told.
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({name: pixels[None]}, step=step, **options)
                taken = True
            elif tracker.name == "mlflow":
                import mlflow  # type: ignore[import-not-found]

                # A run does not take pictures, its client does.
                run = tracker.tracker.info.run_id
                mlflow.MlflowClient().log_image(run, pixels, f"{name}-{step:08d}.png")
                taken = True
        return taken
