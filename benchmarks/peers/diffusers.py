"""diffusers' schedulers in the loop of its documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import pairwise
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


@torch.inference_mode()
def paradigms(
    name: str,
    steps: int,
    start: Tensor,
    net: Callable[..., Tensor],
    tolerance: float,
    window: int,
    seed: int,
) -> tuple[Tensor, int]:
    """A parallel scheduler in the loop of ParaDiGMS (arXiv 2305.16317): the sample, and its rounds.

    Noise is drawn beforehand and added to the drifts, so that a window of 1 is the ordinary run.

    Args:
        name: DDIMParallelScheduler or DDPMParallelScheduler.
        steps: how many.
        start: the state, of one sample.
        net: called as net(x, t), t a tensor [rows].
        tolerance: of the squared move of a state, in units of its step's variance, as there.
        window: states of a round.
        seed: of the noise.
    """
    config = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
    scheduler = getattr(import_module("diffusers"), name)(**config)
    scheduler.set_timesteps(steps)
    t = scheduler.timesteps
    generator = torch.Generator().manual_seed(seed)
    ends = [int(x) for x in t] + [-1]
    stochastic = name.startswith("DDPM")
    variances = torch.tensor(
        [
            float(scheduler._get_variance(s) if stochastic else scheduler._get_variance(s, e))
            for s, e in pairwise(ends)
        ]
    )
    scale = 1 / (variances.clamp(min=1e-20) * start.numel())
    noise = torch.randn(steps, *start.shape[1:], generator=generator) if stochastic else None
    states = start.repeat(steps + 1, *[1] * (start.ndim - 1))
    begin, rounds = 0, 0
    while begin < steps:
        end = min(begin + window, steps)
        x, times = states[begin:end], t[begin:end]
        moved = scheduler.batch_step_no_noise(net(x, times), times, x)
        moves = moved - x
        if noise is not None:
            spread = variances[begin:end].sqrt() * (times > 0)
            moves = moves + spread.reshape(-1, *[1] * (start.ndim - 1)) * noise[begin:end]
        found = states[begin] + moves.cumsum(0)
        misses = (found - states[begin + 1 : end + 1]).flatten(1).square().sum(1)
        far = misses * scale[begin:end] > tolerance**2
        accepted = int(far[:-1].float().argmax()) + 1 if bool(far[:-1].any()) else end - begin
        states[begin + 1 : end + 1] = found
        states[end + 1 :] = found[-1]
        begin, rounds = begin + accepted, rounds + 1
    return states[steps : steps + 1], rounds
