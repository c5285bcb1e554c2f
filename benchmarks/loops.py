"""Sampling loops around a network that costs nothing: what a solver adds to every step.

The network hands out tensors made beforehand, so the time is that of everything else: for
fastgen a whole `sampler(x)` call divided by its steps, for diffusers `scheduler.step` in a loop
over the timesteps, both with the state given.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

import fastgen
from benchmarks.harness import Case, Provider, Row, measured
from fastgen.schedules import DiscreteVP, Rectified, Schedule

STEPS = 20
SHAPES = [(256, 2), (1, 4, 64, 64), (64, 3, 32, 32)]
# fastgen solver, its options, diffusers' scheduler, its options.
PAIRS = [
    ("ddpm", {}, "DDPMScheduler", {"clip_sample": False}),
    ("ddim", {}, "DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    ("ddim", {"eta": 1.0}, "DDIMScheduler", {"clip_sample": False}),
    ("euler", {}, "EulerDiscreteScheduler", {}),
    ("euler_ancestral", {}, "EulerAncestralDiscreteScheduler", {}),
    ("heun", {}, "HeunDiscreteScheduler", {}),
    ("dpmpp_2m", {}, "DPMSolverMultistepScheduler", {}),
    ("rk4", {}, None, {}),
    ("adams_bashforth", {"order": 4}, None, {}),
    ("annealed_langevin", {"corrector_steps": 2}, None, {}),
    ("predictor_corrector", {}, None, {}),
]
FLOW_PAIRS = [
    ("euler", {}, "FlowMatchEulerDiscreteScheduler", {}),
    ("heun", {}, "FlowMatchHeunDiscreteScheduler", {}),
]


def free_network(shape: tuple[int, ...], count: int = 8) -> Callable[..., torch.Tensor]:
    """A network that hands out ``count`` tensors in turn: solvers may hold on to some of them."""
    pool = itertools.cycle([torch.randn(shape) for _ in range(count)])
    return lambda *_: next(pool)


def _fastgen(
    solver: str,
    options: dict[str, float],
    schedule: Schedule,
    predicts: str,
    shape: tuple[int, ...],
) -> Provider:
    grid = "trailing" if isinstance(schedule, DiscreteVP) else "uniform"
    plan = fastgen.plan(solver, schedule, STEPS, timesteps=grid, **options)
    sampler = fastgen.Sampler(fastgen.Model(free_network(shape), schedule, predicts), plan)
    x = torch.randn(shape)
    return Provider("fastgen", lambda: sampler(x), units=plan.nfe)


def _diffusers(
    name: str, config: dict[str, object], options: dict[str, float], shape: tuple[int, ...]
) -> Provider | None:
    try:
        import diffusers
    except ImportError:
        return None
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(STEPS)
    timesteps = list(scheduler.timesteps)
    net, x = free_network(shape), torch.randn(shape)
    eta = {"eta": options["eta"]} if "eta" in options else {}

    def run() -> torch.Tensor:
        scheduler.set_timesteps(STEPS)
        state = x
        for t in timesteps:
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(state, t)
            state = scheduler.step(net(), t, state, return_dict=False, **eta)[0]
        return state

    return Provider("diffusers", run, "diffusers", units=len(timesteps))


def cases(quick: bool) -> list[Case]:
    """All cases of the suite."""
    found = []
    discrete, flow = DiscreteVP.linear(), Rectified()
    for shape in SHAPES[:1] if quick else SHAPES:
        for pairs, schedule, predicts in (
            (PAIRS, discrete, "noise"),
            (FLOW_PAIRS, flow, "velocity"),
        ):
            for solver, options, peer, config in pairs:
                providers = [_fastgen(solver, options, schedule, predicts, shape)]
                other = _diffusers(peer, config, options, shape) if peer else None
                if other is not None:
                    providers.append(other)
                label = " ".join([solver, *(f"{k}={v}" for k, v in options.items())])
                kind = "flow" if schedule is flow else "diffusion"
                found.append(
                    Case(
                        "loops",
                        f"{label} ({kind})",
                        shape,
                        torch.float32,
                        providers,
                        threads=torch.get_num_threads(),
                    )
                )
    return found


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    return measured(cases(quick), quick)
