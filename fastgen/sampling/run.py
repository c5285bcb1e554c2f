"""Running a lowered program: in buffers of its own, or with new tensors for autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

import fastgen.kernels as kernels
from fastgen.common.devices import integers, upload
from fastgen.kernels import Noise, Stream
from fastgen.plans import Program, Stage
from fastgen.plans.forms import Computed, Increment
from fastgen.plans.lowering import Raw


class Evaluations(Protocol):
    """One run's network calls (`fastgen.sampling.network_calls.Evaluation`, or a drop-in's own)."""

    def __call__(
        self, k: int, network_input: Tensor, state: Tensor | None, /
    ) -> tuple[Tensor, ...]:
        """The outputs that evaluation k's stage reads."""

    def provide(
        self,
        symbol: Computed | Increment,
        outputs: tuple[Tensor, ...],
        state: Tensor | None,
        dtype: torch.dtype,
        /,
    ) -> Tensor:
        """A stage's input that is neither a buffer nor an output."""


@dataclass(frozen=True)
class BufferKey:
    """What buffers depend on."""

    shape: tuple[int, ...]
    device: torch.device
    dtypes: tuple[torch.dtype, torch.dtype]
    seeds: int
    observe: bool
    keep: bool


class Tables:
    """Coefficients and draw ids of every stage, on the device: one block of memory for each.

    With a guidance scale per sample [B] there is one table per row. Coefficients are affine in
    the scale, so they follow from two programs that were lowered for the scales 2 and 3.
    """

    def __init__(
        self,
        program: Program,
        device: torch.device,
        scale: Tensor | None = None,
        at_three: Program | None = None,
    ) -> None:
        rows = 1 if scale is None else scale.shape[0]
        tables = [None if s is None else s.table for s in program.stages]
        sizes = [0 if table is None else rows * table.size for table in tables]
        counts = [0 if s is None else len(s.normals) for s in program.stages]
        self.packed = _pack(program, device)
        if scale is not None and at_three is not None:
            offset = upload(scale.double(), device)[:, None] - 2.0
            spread = self.packed + offset * (_pack(at_three, device) - self.packed)
            parts = torch.split(spread, [0 if t is None else t.size for t in tables], 1)
            self.packed = torch.cat([part.reshape(-1) for part in parts])
        draws = [n.draw for s in program.stages if s is not None for n in s.normals]
        self.packed_draws = integers(draws, device)
        self.coefficients = [
            None if table is None else part.view(rows, *table.shape)
            for table, part in zip(tables, torch.split(self.packed, sizes), strict=True)
        ]
        self.draws = [
            part if count else None
            for part, count in zip(torch.split(self.packed_draws, counts), counts, strict=True)
        ]

    def load(self, other: Tables) -> None:
        """Take the values of tables of the same sizes, in place: bound kernels then use them."""
        self.packed.copy_(other.packed)
        self.packed_draws.copy_(other.packed_draws)

    def noise(self, seeds: Tensor, ids: Tensor) -> list[Noise | None]:
        """What each stage draws."""
        return [None if d is None else Noise(seeds, ids, d, Stream.SOLVER) for d in self.draws]


def _pack(program: Program, device: torch.device) -> Tensor:
    tables = [s.table.reshape(-1) for s in program.stages if s is not None]
    return upload(torch.from_numpy(np.concatenate([np.empty(0), *tables])), device)


@dataclass(frozen=True, slots=True)
class _Step:
    """An evaluation and the stage after it, resolved for the loop.

    input, state: what the network reads, and the state that goes with it; call: the stage;
    reads: its inputs that are no buffers; raws: those as (evaluation, branch), or None where some
    are computed; own_only: the evaluation's one output is all of them; keeps: whether later stages
    read the outputs; drops: the evaluations whose outputs nothing reads after it.
    """

    input: Tensor
    state: Tensor | None
    call: Callable[[list[Tensor]], None] | None
    reads: list[Raw | Computed | Increment]
    raws: list[tuple[int, int]] | None
    own_only: bool
    keeps: bool
    drops: tuple[int, ...]


class InPlaceRun:
    """Runs a program in buffers of its own, every stage one bound kernel call."""

    def __init__(
        self, program: Program, tables: Tables, key: BufferKey, backend: str | None
    ) -> None:
        self.program, self.key = program, key
        kernel = kernels.implementation(key.device, backend)
        state, network = key.dtypes
        self.slots = [
            torch.empty(key.shape, dtype=network if on_network else state, device=key.device)
            for on_network in program.network_buffers
        ]
        self.seeds = torch.empty(key.seeds, dtype=torch.int64, device=key.device)
        self.ids = torch.empty(key.shape[0], dtype=torch.int64, device=key.device)
        self._owned = {slot.data_ptr() for slot in self.slots}  # each is a storage of its own
        self._taken = set(self._owned)  # with outputs that are still needed
        self._raws: dict[int, tuple[Tensor, ...]] = {}
        noise = tables.noise(self.seeds, self.ids)
        calls = [
            None
            if stage is None
            else kernel.bind(
                [self.slots[i] if isinstance(i, int) else None for i in stage.inputs],
                [self.slots[o] for o in stage.outputs],
                table,
                stage.clip,
                z,
            )
            for stage, table, z in zip(program.stages, tables.coefficients, noise, strict=True)
        ]
        self._steps = [self._step(k, call) for k, call in enumerate(calls, -1)]

    def _step(self, k: int, call: Callable[[list[Tensor]], None] | None) -> _Step:
        program = self.program
        point = program.calls[max(k, 0)]
        stage = program.stages[k + 1]
        reads = [] if stage is None else [i for i in stage.inputs if not isinstance(i, int)]
        raws = [(i.evaluation, i.branch) for i in reads if isinstance(i, Raw)]
        before = set(program.held[k]) | {k} if k >= 0 else set()
        return _Step(
            self.slots[point.input],
            None if point.state is None else self.slots[point.state],
            call,
            reads,
            raws if len(raws) == len(reads) else None,
            raws == [(k, 0)] and len(reads) == 1,
            k in program.held[k + 1],
            tuple(sorted(before - set(program.held[k + 1]))),
        )

    def start(self, x: Tensor, seeds: Tensor, ids: Tensor) -> None:
        """Take the initial state, seeds and ids of a run."""
        self.slots[0].copy_(x.detach())
        self.seeds.copy_(seeds)
        self.ids.copy_(ids)
        self._raws.clear()
        self._taken = set(self._owned)

    def advance(self, k: int, evaluate: Evaluations) -> None:
        """Evaluation k (none for -1) and the stage after it."""
        step, raws = self._steps[k + 1], self._raws
        outputs: tuple[Tensor, ...] = ()
        if k >= 0:
            outputs = evaluate(k, step.input, step.state)
            for output in outputs:
                if output.data_ptr() in self._taken or not output.is_contiguous():
                    outputs = tuple([self._own(output) for output in outputs])
                    break
            raws[k] = outputs
            if step.keeps:
                self._taken.update([output.data_ptr() for output in outputs])
        if step.call is not None:
            if step.own_only:
                step.call([outputs[0]])
            elif step.raws is not None:
                step.call([raws[i][branch] for i, branch in step.raws])
            else:
                step.call(
                    [
                        raws[i.evaluation][i.branch]
                        if isinstance(i, Raw)
                        else evaluate.provide(i, outputs, step.state, self.key.dtypes[0])
                        for i in step.reads
                    ]
                )
        for i in step.drops:
            dropped = raws.pop(i)
            if i != k:
                self._taken.difference_update([output.data_ptr() for output in dropped])

    def _own(self, output: Tensor) -> Tensor:
        """The output, safe from what the run writes.

        Raises:
            ValueError: if the network wrote it over an earlier output that is still needed.
        """
        storage = output.untyped_storage().data_ptr()
        if storage in self._owned:  # a network may return its input, which is overwritten
            return output.clone()
        for earlier in self._raws.values():
            if any(storage == e.untyped_storage().data_ptr() for e in earlier):
                raise ValueError(
                    "net: it returned the same memory as at an earlier evaluation, which is "
                    "still needed; return a copy, or wrap it as Model(..., reuses_output=True)"
                )
        return output

    def finish(self) -> Tensor:
        """The result, in memory that no later run touches."""
        self._raws.clear()
        return self.slots[self.program.result].clone()


class RecordedRun:
    """Runs a program with new tensors for every value, for autograd."""

    def __init__(
        self,
        program: Program,
        tables: Tables,
        dtypes: tuple[torch.dtype, torch.dtype],
        checkpoint: bool,
    ) -> None:
        self.program, self.tables, self.checkpoint = program, tables, checkpoint
        self.dtypes = [dtypes[on_network] for on_network in program.network_buffers]
        self.raws: dict[int, tuple[Tensor, ...]] = {}

    def start(self, x: Tensor, seeds: Tensor, ids: Tensor) -> None:
        """Take the initial state, seeds and ids of a run."""
        self.slots = [x] * len(self.dtypes)
        self.noise = self.tables.noise(seeds, ids)

    def advance(self, k: int, evaluate: Evaluations) -> None:
        """Evaluation k (none for -1) and the stage after it."""
        stage, older = self.program.stages[k + 1], dict(self.raws)

        def segment(
            start: Tensor, state: Tensor | None, *values: Tensor
        ) -> tuple[tuple[Tensor, ...], list[Tensor]]:
            raws = older | {k: evaluate(k, start, state) if k >= 0 else ()}
            if stage is None:
                return raws[k], []
            rest = iter(values)
            tensors = [
                raws[i.evaluation][i.branch]
                if isinstance(i, Raw)
                else next(rest)
                if isinstance(i, int)
                else evaluate.provide(i, raws[k], state, self.dtypes[0])
                for i in stage.inputs
            ]
            return raws[k], self._combine(k + 1, stage, tensors)

        call = self.program.calls[max(k, 0)]
        start = self.slots[call.input]
        state = None if call.state is None else self.slots[call.state]
        inputs = () if stage is None else stage.inputs
        values = [self.slots[i] for i in inputs if isinstance(i, int)]
        if self.checkpoint and k >= 0:
            own, outputs = recompute(segment, start, state, *values, use_reentrant=False)
        else:
            own, outputs = segment(start, state, *values)
        for slot, output in zip(() if stage is None else stage.outputs, outputs, strict=True):
            self.slots[slot] = output
        self.raws = {i: (older | {k: own})[i] for i in self.program.held[k + 1]}

    def _combine(self, s: int, stage: Stage, tensors: list[Tensor]) -> list[Tensor]:
        table = self.tables.coefficients[s]
        assert table is not None
        dtypes = [self.dtypes[o] for o in stage.outputs]
        return kernels.combine(tensors, table, dtypes, clip=stage.clip, noise=self.noise[s])

    def finish(self) -> Tensor:
        """The result."""
        return self.slots[self.program.result]
