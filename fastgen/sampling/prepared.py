"""What is ready before a run: lowered programs, their tables on each device, idle buffers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_choice
from fastgen.common.devices import current_stream
from fastgen.common.idle import Idle
from fastgen.common.kept import kept
from fastgen.common.layouts import gives_channels_last, in_channels_last
from fastgen.common.memo import Memo
from fastgen.common.transforms import outside_transforms
from fastgen.kernels import Known, dispatch
from fastgen.model.guidance import Guidance, check_guidance, check_pair_alone
from fastgen.model.masked import Masked, MaskedModel
from fastgen.model.model import Model, check_model
from fastgen.model.transforms import Transform
from fastgen.plans import Plan, Program
from fastgen.plans.forms import Computed, Increment, Let
from fastgen.sampling.beginning import initial_state
from fastgen.sampling.increments import Increments, IncrementTable
from fastgen.sampling.network_calls import NetworkCalls, TimeRows, TimeTables, check_plan
from fastgen.sampling.run import BufferKey, InPlaceRun, kind_of_known
from fastgen.sampling.tables import Tables
from fastgen.sampling.window import WindowSums

NOISES = ("draws", "brownian")


class PreparedProgram:
    """A lowered program; its tables on each device; buffers of the last runs of all programs.

    Any number of samplers may share one, and copies of them do.
    """

    idle: Idle[tuple[PreparedProgram, BufferKey, Any], InPlaceRun] = Idle(8)

    def __init__(self, program: Program) -> None:
        self.program = program
        self._tables: dict[tuple[torch.device, int], Tables] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedProgram:
        return self

    def tables(self, device: torch.device) -> Tables:
        """The coefficients on a device, for work on its current stream."""
        key = device, current_stream(device)  # another stream would have to wait for the copies
        return kept(self._tables, key, lambda: Tables(self.program, device))

    def workspace(self, key: BufferKey, backend: str | None = None) -> InPlaceRun:
        """Buffers and prepared calls: those of an earlier run where they fit."""
        work = self.idle.take((self, key, dispatch.find("bind_combine", key.device, backend)))
        if work is not None:
            return work
        return InPlaceRun(self.program, self.tables(key.device), key, backend)

    def keep(self, work: InPlaceRun) -> None:
        """Keep the buffers of a run that is over."""
        self.idle.keep((self, work.key, work.bind), work)


# Lowered plans that depend on what is hashed alone; see `fastgen.solvers.registry.kept_plans`.
kept_programs = Memo[PreparedProgram](64)
# Elements of a state up to which buffers outlive their sampler.
SMALL = 2**16


class Prepared:
    """A model and a plan, checked against each other, with all that runs of them share.

    It is what `Sampler`, `Captured` and `ContinuousBatch` have in common; arguments and errors
    are those of `Sampler`.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        guidance: Guidance | None,
        transform: Transform | None,
        noise: str,
        dtype: torch.dtype,
        backend: str | None,
        known: Masked | None = None,
        weighs: bool = False,
    ) -> None:
        check_model(model)
        if not isinstance(plan, Plan):
            raise TypeError(
                f"plan: expected what fastgen.plan(solver, schedule, steps) returns, got {plan!r}"
            )
        check_guidance(guidance)
        if transform is not None and not callable(transform):
            raise TypeError(
                f"transform={transform!r}: expected a function (data prediction, t) -> data"
            )
        if plan.schedule != model.schedule:
            raise ValueError(
                f"plan: it was made for {plan.schedule!r}, the model is on {model.schedule!r}"
            )
        check_pair_alone(model.parametrisation.outputs, guidance, transform)
        check_state_dtype(dtype)
        check_choice("noise", noise, NOISES)
        self.model, self.plan, self.guidance, self.noise = model, plan, guidance, noise
        self.transform, self.dtype, self.backend = transform, dtype, backend
        self.known, self.weighs = known, weighs
        # What the stages are handed; the transform itself needs what the network predicts.
        self.parametrisation = replace(model.parametrisation, transformed=transform is not None)
        self.dtypes = dtype, model.input_dtype(dtype)
        self._idle: Idle[BufferKey, tuple[InPlaceRun, TimeRows]] = Idle(4)
        self._programs: dict[tuple[bool, bool, float], PreparedProgram] = {}
        self._tables: dict[tuple[bool, bool, torch.device, int], Tables] = {}
        self._times: dict[tuple[int, torch.device, int], TimeTables] = {}
        self._windows: dict[tuple[bool, bool, int, torch.device, int], WindowSums] = {}
        check_plan(plan, model, transform, guidance)
        # A plain run's program and times, for the sake of the errors that belong here.
        self.program()
        self._time_values = model.time_values(plan.evaluations)

    def facts(self) -> dict[str, Any]:
        """What all that runs it shows of itself."""
        model, plan = self.model, self.plan
        facts: dict[str, Any] = {"net": model.net, "predicts": model.predicts}
        facts |= {"solver": plan.solver, "steps": plan.steps, "nfe": plan.nfe}
        return {**facts, "schedule": plan.schedule}

    def with_plan(self, plan: Plan, guidance: Guidance | None) -> Prepared:
        """The same with another plan or other guidance."""
        model, transform, noise = self.model, self.transform, self.noise
        rest = self.dtype, self.backend, self.known, self.weighs
        return Prepared(model, plan, guidance, transform, noise, *rest)

    @cached_property
    def masked(self) -> Prepared | None:
        """The same for stages that keep what is known of the data, with the network of the prior.

        None where nothing is known, where something stands between network and stage, and where
        the prior's output does not determine the data at a time of the plan: then the model's own
        network keeps it.
        """
        masked = self.model.masked if isinstance(self.model, MaskedModel) else None
        if masked is None or self.transform is not None or self.guidance is not None:
            return None
        prior, plan = masked.prior, self.plan
        computed = any(
            isinstance(symbol, Computed)
            for i in plan.instructions
            if isinstance(i, Let)
            for symbol in i.form.terms
        )
        if computed or prior.learned_variance or prior.parametrisation.outputs > 1:
            return None
        options = masked.guidance, None, self.noise, self.dtype, self.backend
        try:
            return Prepared(prior, plan, *options, masked)
        except ValueError:
            return None

    def of_run(self, seen: bool) -> Prepared:
        """What a run in order takes; ``seen``: it is watched, recorded or within a transform."""
        return (self.masked or self) if seen else self.quickest

    @cached_property
    def quickest(self) -> Prepared:
        """The same for runs that nothing watches, records or runs in parallel: with what is known
        and the weights that a rule of guidance finds in the stages, where these can have them.
        """
        found = self.masked or self
        guidance = found.guidance
        if guidance is None or not guidance.weighs or found.transform is not None:
            return found
        options = found.transform, found.noise, found.dtype, found.backend, found.known
        return Prepared(found.model, found.plan, guidance, *options, True)

    def split(self, arguments: dict[str, Any], x: Tensor) -> tuple[dict[str, Any], Known | None]:
        """The arguments of the network, and what is known of states like x."""
        return (arguments, None) if self.known is None else self.known.split(arguments, x)

    def program(self, observe: bool = False, keep: bool = False, scale: float = 2.0) -> Program:
        """The lowered plan; ``scale`` stands for guidance scales that differ between samples."""
        return self._shared(observe, keep, scale).program

    def window_sums(
        self, observe: bool, keep: bool, window: int, device: torch.device
    ) -> WindowSums:
        """What runs parallel in time add up, made once for each stream."""
        key = observe, keep, window, device, current_stream(device)
        program, tables = self.program(observe, keep), self.tables(device, observe, keep)
        own = program, self.parametrisation, window, tables, device
        return kept(self._windows, key, lambda: WindowSums(*own))

    @property
    def _scale_per_sample(self) -> bool:
        """Whether tables have a row for each sample, which no other sampler shares."""
        return self._scales_by_row is not None

    def _shared(self, observe: bool, keep: bool, scale: float = 2.0) -> PreparedProgram:
        """The lowered plan with what other samplers have prepared of it."""
        asked = observe, keep, scale
        if asked not in self._programs:
            weights = partial(self._weights, scale=scale)
            options = {
                "brownian": self.noise == "brownian",
                "cast": self.dtypes[0] != self.dtypes[1],
                "observe": observe,
                "keep_states": keep,
                "hold_outputs": not self.model.reuses_output,
                "known": self.known is not None,
            }

            def make() -> PreparedProgram:
                lowered = self.plan.lower(self.parametrisation, weights=weights, **options)
                return PreparedProgram(lowered)

            if self.model.schedule.constant:
                factors = tuple([weights(e.time) for e in self.plan.evaluations])
                key = self.plan, self.parametrisation, *options.values(), factors
                self._programs[asked] = kept_programs(key, make)
            else:
                self._programs[asked] = make()
        return self._programs[asked]

    def _weights(self, t: float, scale: float = 2.0) -> tuple[float, ...]:
        """The factors of the network's outputs at time t; ``scale`` stands for one per sample."""
        if self.guidance is None or self.transform is not None:
            return (1.0,)
        if self.weighs and self.guidance.active(t):  # by these the weights are multiplied
            return (1.0,) * (1 + len(self.guidance.branches))
        return self.guidance.weights(t, scale)

    @property
    def _scales_by_row(self) -> Tensor | None:
        """Guidance scales that make coefficients differ between samples, [B]."""
        if self.guidance is None or self.transform is not None:
            return None
        return self.guidance.by_row

    @outside_transforms
    def new_tables(self, device: torch.device, observe: bool = False, keep: bool = False) -> Tables:
        """The coefficients of all stages, in new memory."""
        rows = self._scales_by_row
        other = None if rows is None else self.program(observe, keep, 3.0)
        with torch.inference_mode(False):  # for later runs in whatever mode
            return Tables(self.program(observe, keep), device, rows, other)

    def tables(self, device: torch.device, observe: bool = False, keep: bool = False) -> Tables:
        """The coefficients of all stages, made once for each stream."""
        if not self._scale_per_sample:
            return self._shared(observe, keep).tables(device)
        key = observe, keep, device, current_stream(device)
        return kept(self._tables, key, lambda: self.new_tables(device, observe, keep))

    @outside_transforms
    def new_time_tables(self, batch: int, device: torch.device) -> TimeTables:
        """What evaluations of B states read of the plan's times, in new memory."""
        joint = 1 if self.guidance is None else self.guidance.joint
        values, increments = self._time_values, self._increments
        with torch.inference_mode(False):  # for later runs in whatever mode
            return TimeTables(
                self.model.time_table(values, batch, device),
                self.model.time_table(values, joint * batch, device) if joint > 1 else None,
                IncrementTable(increments, device) if increments else None,
            )

    def time_tables(self, x: Tensor) -> TimeTables:
        """What evaluations of states like x read of the plan's times, made once for each stream."""
        key = x.shape[0], x.device, current_stream(x.device)
        return kept(self._times, key, lambda: self.new_time_tables(x.shape[0], x.device))

    @cached_property
    def _increments(self) -> list[Increment]:
        """Increments of a Brownian path, as often as stages read them."""
        stages = [stage for stage in self.program().stages if stage is not None]
        return [i for stage in stages for i in stage.inputs if isinstance(i, Increment)]

    @cached_property
    def channels_last(self) -> bool:
        """Whether the network's convolutions leave channels last, so that states lie so too."""
        return gives_channels_last(self.model.net)

    def workspace(
        self,
        observe: bool,
        keep: bool,
        x: Tensor,
        seeds: Tensor,
        known: Known | None = None,
        given: Any = None,
    ) -> tuple[InPlaceRun, TimeRows]:
        """Buffers and prepared calls for a run, and its times: an earlier run's where they fit.

        ``given``: what the caller gave for x.
        """
        last = in_channels_last(given) or self.channels_last
        kind = seeds.numel(), observe, keep, kind_of_known(known, x), last
        key = BufferKey(tuple(x.shape), x.device, self.dtypes, *kind, self.weighs)
        found = self._idle.take(key)
        if found is not None:
            found[1].restore(self.time_tables(x))
            return found
        rows = TimeRows(self.time_tables(x))
        if not self._scale_per_sample:
            return self._shared(observe, keep).workspace(key, self.backend), rows
        tables = self.tables(x.device, observe, keep)
        return InPlaceRun(self.program(observe, keep), tables, key, self.backend), rows

    def keep(self, run: InPlaceRun, rows: TimeRows) -> None:
        """Keep the buffers of a run that is over."""
        self._idle.keep(run.key, (run, rows))

    def retire(self) -> None:
        """Leave small buffers to later samplers of the same plan; for one that is used once.

        Not those that a callback has seen: it may still have them.
        """
        for run, _ in self._idle.drain():
            small = math.prod(run.key.shape) <= SMALL and not run.key.observe
            if small and not self._scale_per_sample:
                self._shared(run.key.observe, run.key.keep).keep(run)

    def initial(
        self,
        shape_or_x: Sequence[int] | Tensor,
        seed: int | Sequence[int] | Tensor,
        sample_ids: Sequence[int] | Tensor | None,
        device: torch.device | str | None,
        data: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The initial state, the seeds and the ids; see `Sampler.__call__`."""
        start, keys = float(self.plan.times[0]), (seed, sample_ids, device)
        own = self.dtype, start, self.guidance
        return initial_state(self.model, shape_or_x, *keys, *own, data)

    def network_calls(
        self,
        x: Tensor,
        seeds: Tensor,
        sample_ids: Tensor,
        net_kwargs: Mapping[str, Any],
        *,
        check_finite: bool = False,
        tick: Callable[[], object] = lambda: None,
        tables: TimeTables | None = None,
        rows: TimeRows | None = None,
    ) -> NetworkCalls:
        """The network with guidance and transform, for one run on states like x.

        ``tables`` are this plan's own for these states, and ``rows`` a new copy of them, unless
        they are given. ``tick`` is called after each evaluation.
        """
        tables = self.time_tables(x) if tables is None else tables
        rows = TimeRows(tables) if rows is None else rows
        increments = None
        if tables.path is not None:
            increments = Increments(tables.path, x.shape, seeds, sample_ids, self.backend)
        return NetworkCalls(
            self.model,
            self.plan,
            x,
            seeds,
            sample_ids,
            rows.times,
            rows.joint,
            self.guidance,
            self.transform,
            net_kwargs,
            check_finite,
            tick,
            increments,
            weighs=self.weighs,
        )


def check_state_dtype(dtype: torch.dtype) -> None:
    """Raise a ValueError for a dtype that states cannot have."""
    if not isinstance(dtype, torch.dtype) or dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype}: the state is torch.float32 or torch.float64")
