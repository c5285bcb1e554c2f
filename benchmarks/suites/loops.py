"""Sampling loops around a network that costs nothing: what a solver adds to every step.

The network hands out tensors made beforehand, so the time is that of everything else: for
fastgen a whole `sampler(x)` call divided by its steps, for diffusers `scheduler.step` in a loop
over the timesteps, both with the state given. "eager, preallocated" is what an expert writes by
hand for one solver: every combination of a step term by term into memory that is there, with
coefficients known beforehand; "torch.compile" is the same step as one function of its tensors and
coefficients.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

import fastgen
from benchmarks.peers import diffusers, installed
from benchmarks.problems.networks import Outputs
from benchmarks.tools.harness import Case, Provider, measured
from benchmarks.tools.rows import Row
from fastgen.plans.program import Raw
from fastgen.schedules import DiscreteVP, Rectified, Schedule

STEPS = 20
SHAPES = [(256, 2), (1, 4, 64, 64), (64, 3, 32, 32)]
Options = dict[str, Any]
# fastgen solver, its options, diffusers' scheduler, its options.
Pair = tuple[str, Options, str | None, Options]
PAIRS: list[Pair] = [
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
FLOW_PAIRS: list[Pair] = [
    ("euler", {}, "FlowMatchEulerDiscreteScheduler", {}),
    ("heun", {}, "FlowMatchHeunDiscreteScheduler", {}),
]


class Loop:
    """One solver's loop from one state: as fastgen runs it, and its steps in plain PyTorch."""

    def __init__(
        self,
        solver: str,
        options: Options,
        schedule: Schedule,
        predicts: str,
        shape: tuple[int, ...],
    ) -> None:
        grid = "trailing" if isinstance(schedule, DiscreteVP) else "uniform"
        self.plan = fastgen.plan(solver, schedule, STEPS, timesteps=grid, **options)
        self.x = torch.randn(shape)
        self.pool = [torch.randn(shape) for _ in range(8)]
        self.outputs = itertools.cycle(self.pool)
        model = fastgen.Model(lambda *_: next(self.outputs), schedule, predicts)
        self.sampler = fastgen.Sampler(model, self.plan)
        self.program = self.sampler.prepared.program()

    def fastgen(self) -> torch.Tensor:
        """A run, from the first of the network's outputs."""
        self.outputs = itertools.cycle(self.pool)
        result: torch.Tensor = self.sampler(self.x)
        return result

    @property
    def linear(self) -> bool:
        """Whether its steps are nothing but combinations of tensors and noise."""
        stages = [s for s in self.program.stages if s is not None]
        inputs = [i for s in stages for i in s.inputs]
        return all(s.clip is None for s in stages) and all(isinstance(i, int | Raw) for i in inputs)

    def eager(self) -> Callable[[], torch.Tensor]:
        """Term by term; an output goes where no input lies."""
        pairs = [torch.empty(2, *self.x.shape).unbind(0) for _ in self.program.network_buffers]
        noises = [torch.empty_like(self.x) for s in self.program.stages if s for _ in s.normals]
        tables = [None if s is None else s.table.tolist() for s in self.program.stages]

        def combine(k: int, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            stage, table = self.program.stages[k], tables[k]
            assert stage is not None
            assert table is not None
            drawn = [noises[i].normal_() for i in range(len(stage.normals))]
            found = []
            for slot, row in zip(stage.outputs, table, strict=True):
                one, other = pairs[slot]
                target = one if all(one is not x for x in inputs) else other
                terms = [(c, x) for c, x in zip(row, [*inputs, *drawn], strict=True) if c]
                torch.mul(terms[0][1], terms[0][0], out=target)
                for c, x in terms[1:]:
                    target.add_(x, alpha=c)
                found.append(target)
            return found

        return self._by_hand(combine)

    def compiled(self) -> Callable[[], torch.Tensor]:
        """Every step one compiled function of tensors and coefficients."""
        tables = [None if s is None else torch.from_numpy(s.table) for s in self.program.stages]
        counts = [0 if s is None else len(s.normals) for s in self.program.stages]

        def formula(inputs: list[torch.Tensor], table: Any, noises: int) -> Any:
            terms = [*inputs, *(torch.randn_like(inputs[0]) for _ in range(noises))]
            rows = table.to(torch.float32)
            return [sum(row[i] * x for i, x in enumerate(terms)) for row in rows]

        step = torch.compile(formula, dynamic=False)
        return self._by_hand(lambda k, inputs: step(inputs, tables[k], counts[k]))

    def _by_hand(self, combine: Callable[..., Any]) -> Callable[[], torch.Tensor]:
        """The loop around ``combine(stage number, inputs)``."""
        program = self.program

        @torch.inference_mode()
        def run() -> torch.Tensor:
            outputs = itertools.cycle(self.pool)
            slots, raws = {0: self.x}, {}
            for k, stage in enumerate(program.stages):
                if k:
                    raws[k - 1] = next(outputs)
                if stage is not None:
                    inputs = [
                        slots[i] if isinstance(i, int) else raws[i.evaluation]
                        for i in stage.inputs
                        if isinstance(i, int | Raw)
                    ]
                    slots.update(zip(stage.outputs, combine(k, inputs), strict=True))
            return slots[program.result].clone()

        return run


def _diffusers(
    name: str, config: Options, options: Options, shape: tuple[int, ...]
) -> Provider | None:
    if installed("diffusers") is None:
        return None
    eta = {"eta": options["eta"]} if "eta" in options else {}
    made = diffusers.loop(name, config, STEPS, torch.randn(shape), Outputs(shape)(), **eta)
    # On its own time grid, from its own noise.
    return Provider("diffusers", made.run, "diffusers", made.calls, compared=False)


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
                loop = Loop(solver, options, schedule, predicts, shape)
                units = loop.plan.nfe
                providers = [Provider("fastgen", loop.fastgen, units=units)]
                if loop.linear:
                    eager = Provider("eager, preallocated", loop.eager(), "torch", units)
                    compiled = Provider("torch.compile", loop.compiled(), "torch", units)
                    providers += [eager, compiled]
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
                        tolerance=None if loop.plan.draws else 1e-5,
                        threads=torch.get_num_threads(),
                    )
                )
    return found


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    torch._dynamo.config.recompile_limit = 64  # one function for all numbers of terms
    return measured(cases(quick), quick)
