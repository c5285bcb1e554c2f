"""Whole sampling loops with real networks: what share of the time is the solver's.

Where the network dominates no solver library can make sampling faster; where it is small the
loop around it is what users wait for. Every network runs once with fastgen and once with
diffusers' scheduler of the same solver; "network alone" is the same number of calls of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

import fastgen
from benchmarks.harness import Case, Provider, Row, measured
from fastgen.schedules import DiscreteVP

STEPS = 10


class Policy(nn.Module):
    """An MLP on [B, D], time as one more feature: robot policies, two-dimensional toys."""

    def __init__(self, dimension: int, width: int, depth: int = 3) -> None:
        super().__init__()
        sizes = [dimension + 1] + [width] * depth
        layers = [
            layer for a, b in pairwise(sizes)
            for layer in (nn.Linear(a, b), nn.SiLU())
        ]  # fmt: skip
        self.layers = nn.Sequential(*layers, nn.Linear(width, dimension))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise prediction [B, D]."""
        result: Tensor = self.layers(torch.cat([x, t.to(x.dtype)[:, None]], dim=1))
        return result


class Convolutions(nn.Module):
    """A residual convolutional network on images, without attention."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.inward = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(depth)
        )
        self.outward = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise prediction [B, C, H, W]."""
        h = self.inward(x) + t.to(x.dtype)[:, None, None, None]
        for block in self.blocks:
            h = h + block(h)
        result: Tensor = self.outward(h)
        return result


NETWORKS = [
    ("MLP 2-64", lambda: Policy(2, 64), (256, 2)),
    ("MLP 14-256", lambda: Policy(14, 256), (1, 14)),
    ("MLP 784-1024", lambda: Policy(784, 1024), (64, 784)),
    ("convolutions 32 x 4", lambda: Convolutions(3, 32, 4), (16, 3, 32, 32)),
    ("convolutions 64 x 8", lambda: Convolutions(3, 64, 8), (4, 3, 64, 64)),
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
