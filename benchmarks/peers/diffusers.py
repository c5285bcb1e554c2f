"""diffusers' schedulers in the loop of its documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Loop(NamedTuple):
    """A whole loop, and how often it calls the network."""

    run: Callable[[], Tensor]
    calls: int


def loop(
    name: str,
    config: Mapping[str, object],
    steps: int,
    start: Tensor,
    net: Callable[..., Tensor],
    **options: object,
) -> Loop:
    """A scheduler's loop from one state.

    Args:
        name: of the scheduler's class; diffusers must be installed.
        config: its configuration.
        steps: how many.
        start: the state.
        net: called as net(x, t), t a tensor of no dimension.
        options: of every `step`.
    """
    scheduler = getattr(import_module("diffusers"), name)(**config)
    place = {"device": start.device} if start.is_cuda else {}
    scheduler.set_timesteps(steps, **place)
    timesteps = list(scheduler.timesteps)
    scale = getattr(scheduler, "scale_model_input", lambda x, t: x)

    def run() -> Tensor:
        scheduler.set_timesteps(steps, **place)
        x = start
        for t in timesteps:
            x = scheduler.step(net(scale(x, t), t), t, x, return_dict=False, **options)[0]
        return x

    return Loop(run, len(timesteps))


def for_each(batch: int, net: Callable[..., Tensor], scale: float = 1.0) -> Callable[..., Tensor]:
    """A network that takes a time for each sample, fed the loop's one time, scaled."""

    def call(x: Tensor, t: Tensor) -> Tensor:
        return net(x, (t * scale if scale != 1 else t).expand(batch))

    return call


def sampled(
    name: str, config: Mapping[str, Any], budget: int, x: Tensor, predict: Callable[..., Tensor]
) -> Tensor:
    """Samples after at most ``budget`` calls of predict(x, index), noise predicted; float64."""
    made = getattr(import_module("diffusers"), name)(**config)
    for steps in range(budget, 0, -1):
        made.set_timesteps(steps)
        if len(made.timesteps) <= budget:
            break
    x = x * float(made.init_noise_sigma)
    torch.manual_seed(0)
    for index in made.timesteps:
        scaled = made.scale_model_input(x, index)
        x = made.step(predict(scaled, index), index, x, return_dict=False)[0]
    return x.to(torch.float64)
