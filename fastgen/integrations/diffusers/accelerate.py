"""Swap the schedulers of a pipeline in place."""

from __future__ import annotations

from typing import Any, TypeVar

from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch.nn import Module

from fastgen.common.errors import nearest
from fastgen.integrations.diffusers.base import FusedScheduler

Owner = TypeVar("Owner")


def accelerate(pipeline: Owner, *, noise: str = "torch", seed: int | None = None) -> Owner:
    """Give every diffusers scheduler that the object holds this library's step.

    The new schedulers take over the whole state of the old ones, so this may be done at any time
    between two runs, and a pipeline saves and loads as before.

    Args:
        pipeline: a `DiffusionPipeline`, a policy or other object with a scheduler as an attribute,
            of a torch module also in the modules inside it, or a scheduler itself.
        noise: "torch" or "contract", see `FusedScheduler`.
        seed: with "contract", for steps that are given no generator.

    Returns:
        The pipeline; of a scheduler, the one to use in its place.

    Raises:
        ValueError: if it holds no scheduler, or one without a counterpart here.
    """
    if isinstance(pipeline, SchedulerMixin):
        swapped: Owner = _swapped(pipeline, noise, seed)
        return swapped
    owners = list(pipeline.modules()) if isinstance(pipeline, Module) else [pipeline]
    found = [(o, k, v) for o in owners for k, v in vars(o).items() if isinstance(v, SchedulerMixin)]
    if not found:
        raise ValueError(f"pipeline: {type(pipeline).__name__} holds no diffusers scheduler")
    replaced = {id(v): _swapped(v, noise, seed) for _, _, v in found}  # once if shared
    for owner, name, scheduler in found:
        setattr(owner, name, replaced[id(scheduler)])
    return pipeline


def _swapped(scheduler: Any, noise: str, seed: int | None) -> Any:
    if not isinstance(scheduler, FusedScheduler):
        kind = type(scheduler)
        own: Any = FusedScheduler.family().get(kind.__name__)
        if own is None or kind not in own.__mro__:
            known = FusedScheduler.family()
            hint = nearest(kind.__name__, known)
            raise ValueError(f"scheduler: there is no {kind.__name__} here; {hint}")
        state = vars(scheduler)
        scheduler = own.__new__(own)
        vars(scheduler).update(state)
    scheduler.set_noise(noise, seed)
    return scheduler
