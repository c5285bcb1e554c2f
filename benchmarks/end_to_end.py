"""Whole sampling loops with real networks: what share of the time is the solver's.

Where the network dominates no solver library can make sampling faster; where it is small the
loop around it is what users wait for. Every network runs once with fastgen and once with
diffusers' scheduler of the same solver; "network alone" is the same number of calls of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import fastgen
from benchmarks.harness import Case, Provider, Row, measured
from fastgen.networks import MLP, DiT, UNet
from fastgen.schedules import DiscreteVP

STEPS = 10


NETWORKS = [
    ("MLP 2-64", lambda: MLP((2,)), (256, 2)),
    ("MLP 14-256", lambda: MLP((14,), (256,) * 3), (1, 14)),
    ("MLP 784-1024", lambda: MLP((784,), (1024,) * 3), (64, 784)),
    ("U-Net 1-D 64", lambda: UNet(14, 64, dims=1), (1, 14, 16)),
    ("U-Net 32", lambda: UNet(3, 32), (16, 3, 32, 32)),
    ("DiT 128", lambda: DiT(4, 32), (4, 4, 32, 32)),
]


def cases(quick: bool) -> list[Case]:
    """One case for each network: DPM-Solver++(2M), whose loop diffusers has too."""
    found = []
    for name, make, shape in NETWORKS[:3] if quick else NETWORKS:
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
    try:
        import diffusers
    except ImportError:
        return []
    scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    steps = list(scheduler.timesteps)
    start = torch.randn(shape)

    @torch.inference_mode()
    def run() -> Tensor:
        scheduler.set_timesteps(STEPS)
        x = start
        for t in steps:
            x = scheduler.step(network(x, t.expand(shape[0])), t, x, return_dict=False)[0]
        return x

    return [Provider("diffusers", run, "diffusers", units=len(steps))]


def _alone(network: nn.Module, shape: tuple[int, ...]) -> Provider:
    x, t = torch.randn(shape), torch.full(shape[:1], 0.5)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(STEPS):
            network(x, t)

    return Provider("network alone", run, "torch", units=STEPS)


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    return measured(cases(quick), quick)
