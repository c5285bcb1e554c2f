"""The schedulers of diffusers under their own names, each option at each of its values."""

from __future__ import annotations

import inspect
from functools import partial

import torch

import fastgen.integrations.diffusers as drop_in
from tests.bits.problems import F32, F64, normal, squash
from tests.bits.registry import group
from tests.integrations.diffusers.scheduler_loops import OPTIONS

SHAPE = (2, 3, 4, 5)
NAMES = [name for name in drop_in.__all__ if name.endswith("Scheduler")]


def output(x, t):
    """A network's output: smooth, elementwise."""
    return 0.5 * squash(x + float(t) / 500) + 0.2 * x


def loop(name, config, step_options, dtype=F32, steps=6, noise="torch", twice=False):
    """All states and second results of a loop, or of two by one scheduler."""
    scheduler = getattr(drop_in, name)(**config)
    if noise != "torch":
        scheduler.set_noise(noise, 3)
    found = []
    for seed in (9, 10)[: 1 + twice]:
        grid = {"mu": 0.8} if scheduler.config.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(num_inference_steps=steps, **grid)
        x = normal(*SHAPE, seed=3, dtype=dtype) * float(getattr(scheduler, "init_noise_sigma", 1.0))
        options = dict(step_options)
        if "generator" in inspect.signature(scheduler.step).parameters:
            options["generator"] = torch.Generator().manual_seed(seed)
        for t in scheduler.timesteps:
            scaled = x
            if hasattr(scheduler, "scale_model_input"):
                scaled = scheduler.scale_model_input(x, t)
            result = scheduler.step(output(scaled, t), t, x, return_dict=False, **options)
            x = result[0]
            found.append([y.clone() for y in result if isinstance(y, torch.Tensor)])
        found.append([scheduler.timesteps, getattr(scheduler, "sigmas", None)])
    return found


def score_loop(name):
    """Song's schedulers have calls of their own."""
    scheduler = getattr(drop_in, name)()
    scheduler.set_timesteps(6)
    x, generator, found = normal(*SHAPE), torch.Generator().manual_seed(2), []
    if name == "ScoreSdeVpScheduler":
        for t in scheduler.timesteps:
            x, mean = scheduler.step_pred(output(x, t), x, t, generator)
            found.append((x, mean))
        return found
    scheduler.set_sigmas(6)
    for t in scheduler.timesteps:
        x = scheduler.step_correct(output(x, t), x, generator, return_dict=False)[0]
        x, mean = scheduler.step_pred(output(x, t), t, x, generator, return_dict=False)
        found.append((x, mean))
    return found


def noised(name):
    scheduler = getattr(drop_in, name)()
    scheduler.set_timesteps(6)
    at = scheduler.timesteps[1:3]
    x, noise = normal(*SHAPE), normal(*SHAPE, seed=1)
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(x, at, noise)
    return scheduler.add_noise(x, noise, at)


@group("diffusers")
def schedulers():
    for name in NAMES:
        if name.startswith("ScoreSde"):
            yield f"{name}/loop", partial(score_loop, name)
            continue
        config, steps = OPTIONS[name]
        fixed = {k: v[0] for k, v in config.items() if len(v) == 1}
        for count in (1, 4, 10):
            yield f"{name}/{count}", partial(loop, name, fixed, {}, steps=count)
        yield f"{name}/float64", partial(loop, name, fixed, {}, F64)
        yield f"{name}/bfloat16", partial(loop, name, fixed, {}, torch.bfloat16)
        yield f"{name}/contract", partial(loop, name, fixed, {}, noise="contract")
        yield f"{name}/twice", partial(loop, name, fixed, {}, twice=True)
        yield f"{name}/noised", partial(noised, name)
        for option, values in config.items():
            for k, value in enumerate(values[1:]):
                yield f"{name}/{option}/{k}", partial(loop, name, fixed | {option: value}, {})
        for option, values in steps.items():
            for k, value in enumerate(values[1:]):
                yield f"{name}/step/{option}/{k}", partial(loop, name, fixed, {option: value})
