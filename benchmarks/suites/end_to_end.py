"""Whole sampling loops with real networks: what share of the time is the solver's.

Where the network dominates no solver library can make sampling faster; where it is small the
loop around it is what users wait for. Every network runs once with fastgen and once with
diffusers' scheduler of the same solver; "network alone" is the same number of calls of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

import fastgen
from benchmarks.peers import diffusers, installed
from benchmarks.problems.networks import ON_CPU
from benchmarks.tools.harness import Case, Provider, measured
from benchmarks.tools.rows import Row
from fastgen.networks import MLP, UNet
from fastgen.schedules import DiscreteVP, Rectified

STEPS = 10


def cases(quick: bool) -> list[Case]:
    """One case for each network: DPM-Solver++(2M), whose loop diffusers has too."""
    found = []
    for name, (make, shape) in list(ON_CPU.items())[: 3 if quick else None]:
        torch.manual_seed(0)
        network = make().eval()
        found.append(
            Case(
                "end_to_end", f"{name}, dpmpp_2m", shape, torch.float32,
                [_fastgen(network, shape), *_diffusers(network, shape), _alone(network, shape)],
                threads=torch.get_num_threads(),
            )
        )  # fmt: skip
    return found


def _fastgen(network: nn.Module, shape: tuple[int, ...]) -> Provider:
    schedule = DiscreteVP.linear()
    plan = fastgen.plan("dpmpp_2m", schedule, STEPS, timesteps="trailing")
    sampler = fastgen.Sampler(fastgen.Model(network, schedule, "noise"), plan)
    x = torch.randn(shape)
    return Provider("fastgen", lambda: sampler(x), units=plan.nfe)


def _diffusers(network: nn.Module, shape: tuple[int, ...]) -> list[Provider]:
    if installed("diffusers") is None:
        return []
    made = diffusers.loop(
        "DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, STEPS,
        torch.randn(shape), diffusers.for_each(shape[0], network),
    )  # fmt: skip
    run = torch.inference_mode()(made.run)
    return [Provider("diffusers", run, "diffusers", units=made.calls)]


def _alone(network: nn.Module, shape: tuple[int, ...]) -> Provider:
    x, t = torch.randn(shape), torch.full(shape[:1], 0.5)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(STEPS):
            network(x, t)

    return Provider("network alone", run, "torch", units=STEPS)


def small(name: str, network: nn.Module, shape: tuple[int, ...], steps: int) -> Case:
    """A flow's Euler steps with a network of less than a millisecond, compiled with its stages."""
    torch.manual_seed(0)
    model = fastgen.Model(network.eval(), Rectified(), "velocity")
    plan, x = fastgen.plan("euler", model.schedule, steps), torch.randn(shape)
    eager = fastgen.Sampler(model, plan)
    made = {"fastgen": eager, "fastgen, compile=True": fastgen.Sampler(model, plan, compile=True)}
    made["fastgen, compile(shape)"] = eager.compile(shape)
    if steps <= STEPS:
        made["fastgen, compile(shape, loop=True)"] = eager.compile(shape, loop=True)
    providers = [Provider(name, partial(sampler, x), units=steps) for name, sampler in made.items()]
    alone = _alone(network, shape)
    many = partial(_times, alone.run, steps // STEPS)
    providers.append(Provider("network alone", many, "torch", units=steps, compared=False))
    return Case(
        "end_to_end", f"{name}, {steps} Euler steps", shape, torch.float32, providers,
        tolerance=1e-4, threads=1,
    )  # fmt: skip


def _times(run: Callable[[], object], count: int) -> None:
    for _ in range(count):
        run()


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    yield from measured(cases(quick), quick)
    for steps in (STEPS,) if quick else (STEPS, 10 * STEPS):
        policy = small("policy", MLP((16, 14), [256, 256]), (1, 16, 14), steps)
        mlp = small("mlp", MLP((2,), [64] * 3), (256, 2), steps)
        convolved = small("1-D U-Net policy", UNet(14, 64, dims=1), (1, 14, 16), steps)
        yield from measured([policy, mlp, convolved], quick)
