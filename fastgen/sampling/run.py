"""Running a lowered program in buffers that it keeps: every stage is one bound kernel call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from fastgen.common.devices import current_stream
from fastgen.common.layouts import FORMATS, channels_behind, channels_in_front
from fastgen.common.memory import storage_address
from fastgen.kernels import Known, dispatch
from fastgen.kernels.contract import HoldsAddresses
from fastgen.plans import Program, Stage
from fastgen.plans.forms import Computed, Increment
from fastgen.plans.program import Raw
from fastgen.sampling.tables import Tables


class CallsNetwork(Protocol):
    """One run's network calls: `network_calls.NetworkCalls`, or a drop-in's own."""

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


class WeighsOutputs(Protocol):
    """Network calls whose outputs stages read with weights of each sample."""

    def weights(self, k: int, outputs: tuple[Tensor, ...], /) -> Tensor:
        """The factors [B, N] or [1, N] of evaluation k's outputs."""


class ShowsEvaluation(Protocol):
    """An observed run: `InPlaceRun`, or `recorded.RecordedRun`."""

    known: Known | None

    def evaluated(self, k: int, /) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The outputs of evaluation k, the last, and the state it was at."""


class KindOfKnown(NamedTuple):
    """Rows of the values and of the mask of what is known, and the mask's dtype."""

    values: int
    mask: int
    dtype: torch.dtype


# Rows shorter than this have what is known each for itself: to find it again takes longer.
_SHORT = 512


def kind_of_known(known: Known | None, x: Tensor) -> KindOfKnown | None:
    """What buffers for it are like."""
    if known is None:
        return None
    short = x.numel() < _SHORT * len(x)
    values, mask = [len(x) if short else len(part) for part in known]
    return KindOfKnown(values, mask, known.mask.dtype)


@dataclass(frozen=True)
class BufferKey:
    """What buffers depend on; `stream` is the one that work is queued on when the key is made.

    Buffers that are given back may still be worked on: only the same stream gets them again.
    channels_last: states of images lie in memory so, unless kernels draw noise, whose elements are
    numbered as they lie there, or put known values in.
    """

    shape: tuple[int, ...]
    device: torch.device
    dtypes: tuple[torch.dtype, torch.dtype]
    seeds: int
    observe: bool
    keep: bool
    known: KindOfKnown | None = None
    channels_last: bool = False
    weighs: bool = False
    stream: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stream", current_stream(self.device))


@dataclass(frozen=True, slots=True)
class _Call:
    """An evaluation and the stage after it, resolved for the loop.

    input, state: what the network reads, and the state that goes with it; call: the stage;
    reads: its inputs that are not buffers; raws: those as (evaluation, branch), or None where some
    are computed; keeps: whether later stages read the outputs; drops: the evaluations whose outputs
    nothing reads after it; direct: the stage, where it reads the evaluation's first output, which
    nothing else does.
    """

    input: Tensor
    state: Tensor | None
    call: Callable[[list[Tensor]], None] | None
    reads: list[Raw | Computed | Increment]
    raws: list[tuple[int, int]] | None
    keeps: bool
    drops: tuple[int, ...]
    direct: Callable[[list[Tensor]], None] | None


class RowTable(NamedTuple):
    """A stage's coefficients for each sample: those of all, and the columns that weights scale."""

    table: Tensor
    shared: Tensor
    columns: Tensor

    def fill(self, weights: Tensor) -> None:
        """Take the weights [B, N] or [1, N] of the outputs."""
        self.table.copy_(self.shared)
        self.columns.mul_(weights[:, None])


class InPlaceRun(HoldsAddresses):
    """Runs a program in its buffers, every stage one bound kernel call."""

    def __init__(
        self, program: Program, tables: Tables, key: BufferKey, backend: str | None
    ) -> None:
        self.program, self.key = program, key
        with torch.inference_mode(False):  # for later runs in whatever mode
            self._allocate(tables, backend)

    def _allocate(self, tables: Tables, backend: str | None) -> None:
        program, key = self.program, self.key
        self.bind = bind = dispatch.find("bind_combine", key.device, backend)
        state, network = key.dtypes
        self.seeds = torch.empty(key.seeds, dtype=torch.int64, device=key.device)
        self.ids = torch.empty(key.shape[0], dtype=torch.int64, device=key.device)
        self._in_order = False
        noise = tables.noise(self.seeds, self.ids)
        contiguous = key.known is not None or any(z is not None for z in noise)
        self._turned = key.channels_last and len(key.shape) in FORMATS and not contiguous
        kinds = [network if on_network else state for on_network in program.network_buffers]
        # What kernels work on, and the same as networks see it.
        memory = [self._buffer(kind) for kind in kinds]
        self.slots = [channels_in_front(x) if self._turned else x for x in memory]
        self._owned = {slot.data_ptr() for slot in self.slots}  # no two share a storage
        self._taken = set(self._owned)  # with outputs that are still needed
        self._raws: dict[int, tuple[Tensor, ...]] = {}
        self.known: Known | None = None
        if key.known is not None:
            values, mask, dtype = key.known
            self.known = Known(
                torch.empty((values, *key.shape[1:]), dtype=state, device=key.device),
                torch.empty((mask, *key.shape[1:]), dtype=dtype, device=key.device),
            )
        stages = enumerate(zip(program.stages, tables.coefficients, strict=False))
        self._weighed = [self._table_of_rows(s - 1, *stage) for s, stage in stages]
        weighed = [*self._weighed, *[None] * len(program.resumed)]
        calls = [
            None
            if stage is None
            else bind(
                [memory[i] if isinstance(i, int) else None for i in stage.inputs],
                [memory[o] for o in stage.outputs],
                table if own is None else own.table,
                stage.clip,
                z,
                self.known if stage.known else None,
            )
            for stage, table, z, own in zip(
                program.kernel_calls, tables.coefficients, noise, weighed, strict=True
            )
        ]
        count = len(program.stages)
        self._steps = [self._step(k, call) for k, call in enumerate(calls[:count], -1)]
        self._resuming = calls[count:]
        self._given: dict[Computed | Increment, Tensor] = {}  # what the last stage was provided
        self._shown: tuple[Tensor, ...] = ()  # the outputs of the last evaluation, for callbacks

    def _buffer(self, dtype: torch.dtype) -> Tensor:
        """Contiguous memory for a state, of the shape that kernels are given."""
        batch, *rest = self.key.shape
        shape = [batch, *rest[1:], rest[0]] if self._turned else [batch, *rest]
        return torch.empty(shape, dtype=dtype, device=self.key.device)

    def _lying(self, x: Tensor) -> Tensor:
        """A tensor of the state's shape as kernels are given it."""
        return channels_behind(x) if self._turned else x

    def _table_of_rows(self, k: int, stage: Stage | None, table: Tensor | None) -> RowTable | None:
        """A table with a row for each sample, where a stage has weights of evaluation k's outputs.

        Outputs of earlier evaluations are there too, of those that were not guided.
        """
        if not self.key.weighs or stage is None or table is None:
            return None
        raws = [n for n, i in enumerate(stage.inputs) if isinstance(i, Raw) and i.evaluation == k]
        if len(raws) < 2:
            return None
        size = self.key.shape[0], *table.shape[1:]
        made = torch.empty(size, dtype=table.dtype, device=table.device)
        return RowTable(made, table, made[:, :, raws[0] : raws[-1] + 1])

    def _step(self, k: int, call: Callable[[list[Tensor]], None] | None) -> _Call:
        program = self.program
        point = program.calls[max(k, 0)]
        stage = program.stages[k + 1]
        reads = [] if stage is None else [i for i in stage.inputs if not isinstance(i, int)]
        raws = [(i.evaluation, i.branch) for i in reads if isinstance(i, Raw)]
        before = set(program.held[k]) | {k} if k >= 0 else set()
        drops = tuple(sorted(before - set(program.held[k + 1])))
        direct = raws == [(k, 0)] and len(reads) == 1 and drops == (k,) and not self.key.observe
        return _Call(
            self.slots[point.input],
            None if point.state is None else self.slots[point.state],
            call,
            reads,
            raws if len(raws) == len(reads) else None,
            k in program.held[k + 1],
            drops,
            call if direct else None,
        )

    def start(
        self,
        x: Tensor,
        seeds: Tensor,
        ids: Tensor,
        in_order: bool = False,
        known: Known | None = None,
    ) -> None:
        """Take the initial state, seeds and ids of a run, and what is known of its data.

        in_order: ids are 0 .. B - 1.
        """
        self.slots[0].copy_(x.detach() if x.requires_grad else x)
        self.seeds.copy_(seeds)
        if not (in_order and self._in_order):
            self.ids.copy_(ids)
            self._in_order = in_order
        if self.known is not None and known is not None:
            for own, given in zip(self.known, known, strict=True):
                own.copy_(given.detach())
        self._raws.clear()
        self._taken = set(self._owned)

    def advance(self, k: int, calls: CallsNetwork) -> None:
        """Evaluation k (none for -1) and the stage after it."""
        step, raws = self._steps[k + 1], self._raws
        if step.direct is not None:
            output = calls(k, step.input, step.state)[0]
            if output.data_ptr() in self._taken or not self._lying(output).is_contiguous():
                output = self._own(output)
            step.direct([self._lying(output)])
            return
        outputs: tuple[Tensor, ...] = ()
        if k >= 0:
            outputs = calls(k, step.input, step.state)
            for output in outputs:
                if output.data_ptr() in self._taken or not self._lying(output).is_contiguous():
                    outputs = tuple([self._own(output) for output in outputs])
                    break
            raws[k] = outputs
            if self.key.observe:
                self._shown = outputs
            if step.keeps:
                self._taken.update([output.data_ptr() for output in outputs])
        if step.call is not None:
            weighed = self._weighed[k + 1]
            if weighed is not None:
                weighed.fill(cast("WeighsOutputs", calls).weights(k, outputs))
            if step.raws is not None:
                found = [raws[i][branch] for i, branch in step.raws]
                step.call([channels_behind(x) for x in found] if self._turned else found)
            else:
                self._given = {
                    i: calls.provide(i, outputs, step.state, self.key.dtypes[0])
                    for i in step.reads
                    if not isinstance(i, Raw)
                }
                step.call([self._lying(self._read(i)) for i in step.reads])
        for i in step.drops:
            dropped = raws.pop(i)
            if i != k:
                self._taken.difference_update([output.data_ptr() for output in dropped])

    def evaluated(self, k: int) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The outputs of evaluation k, the last, of an observed run, and the state it was at."""
        return self._shown, self._steps[k + 1].state

    def resume(self, state: int, calls: CallsNetwork) -> None:
        """Go on from an observed state as it is now, after a callback has written to it."""
        stage, call = self.program.resumed[state], self._resuming[state]
        if stage is not None and call is not None:
            call([self._lying(self._read(i)) for i in stage.inputs if not isinstance(i, int)])

    def select(self, rows: Tensor, ids: Tensor) -> None:
        """Row i goes on from all that row ``rows[i]`` has, as the sample ``ids[i]``.

        Between an evaluation and the stage after it, whose outputs are the caller's to select.
        """
        for slot in self.slots:
            slot.copy_(slot.index_select(0, rows))
        self._taken.clear()
        self._taken.update(self._owned)
        for k, outputs in self._raws.items():
            self._raws[k] = held = tuple([output.index_select(0, rows) for output in outputs])
            self._taken.update([output.data_ptr() for output in held])
        self.ids.copy_(ids)
        self._in_order = False

    def _read(self, symbol: Raw | Computed | Increment) -> Tensor:
        """A stage's input that is not a buffer, once it is there."""
        if isinstance(symbol, Raw):
            return self._raws[symbol.evaluation][symbol.branch]
        return self._given[symbol]

    def _own(self, output: Tensor) -> Tensor:
        """The output, safe from what the run writes.

        Raises:
            ValueError: if the network wrote it over an earlier output that is still needed.
        """
        storage = output.untyped_storage().data_ptr()
        if storage in self._owned:  # a network may return its input, which is overwritten
            return output.clone()
        check_fresh(output, self._raws)
        return output

    def finish(self) -> Tensor:
        """The result, in memory that no later run touches, laid out like the state."""
        self._raws.clear()
        self._given, self._shown = {}, ()
        return self.slots[self.program.result].clone()


def check_fresh(output: Tensor, held: Mapping[int, tuple[Tensor, ...]]) -> None:
    """Raise a ValueError if an output is in the memory of an earlier one that is still needed."""
    memory = storage_address(output)
    if memory and any(memory == storage_address(e) for earlier in held.values() for e in earlier):
        raise ValueError(
            "net: it returned the same memory as at an earlier evaluation, which is still needed; "
            "return a copy, or wrap it as Model(..., reuses_output=True)"
        )
