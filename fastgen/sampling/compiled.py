"""Runs whose network and stages are code of torch.compile: one call a step, or one for all."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgen.common.compiled_calls import Call, CompiledCall, CompiledFunctions, CompileError
from fastgen.common.idle import Idle
from fastgen.common.modes import unrecorded
from fastgen.kernels import Stream
from fastgen.kernels.contract import compute_dtype
from fastgen.noise.normals import normals
from fastgen.plans.program import Raw
from fastgen.sampling.capture import StaticArguments
from fastgen.sampling.network_calls import TimeRows
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.run import BufferKey, InPlaceRun

# Evaluations that are compiled as one graph: it takes a second or more for each.
MOST = 32


class _Step(NamedTuple):
    """An evaluation and the stage after it, as places in a list of values.

    input, times: what the network is called with, none before the first evaluation; output: where
    its output goes; table: the stage's coefficients; inputs, normals, outputs: its own values;
    present: for each row of the table which coefficients are not 0; clip: see `combine`.
    """

    input: int | None
    times: tuple[int, ...]
    output: int | None
    table: int | None
    inputs: tuple[int, ...]
    normals: tuple[int, ...]
    outputs: tuple[int, ...]
    present: tuple[tuple[bool, ...], ...]
    clip: tuple[float, float] | None


class _Layout(NamedTuple):
    """Steps on values, of which the first are given, and those that are written back."""

    steps: tuple[_Step, ...]
    stored: tuple[int, ...]


def _work(subject: tuple[Any, dict[str, Any], _Layout], *tensors: Tensor) -> None:
    """The steps, on values; those that are stored are written to the tensors they came from."""
    net, arguments, layout = subject
    values: dict[int, Tensor] = dict(enumerate(tensors))
    for step in layout.steps:
        if step.input is not None and step.output is not None:
            times = [values[i].clone() for i in step.times]  # which a network may scale in place
            x = values[step.input]
            found = net(x, *times, **arguments)
            if found.shape != x.shape:
                raise ValueError("the network's output has another shape than its input")
            values[step.output] = found
        if step.table is not None:
            sums = _stage(step, values, tensors)
            values.update(zip(step.outputs, sums, strict=True))
    for place in layout.stored:
        tensors[place].copy_(values[place])


def _stage(step: _Step, values: dict[int, Tensor], tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """`kernels.combine`, in operations that torch.compile puts into its own kernels."""
    assert step.table is not None
    inputs = [values[i] for i in step.inputs]
    kinds = [tensors[i].dtype for i in step.outputs]
    dtype = compute_dtype([x.dtype for x in inputs] + kinds)
    table = values[step.table].to(dtype)
    terms = [x.to(dtype) for x in inputs]

    def total(row: int) -> Tensor:
        found = None
        for column, term in enumerate(terms):
            if step.present[row][column]:
                c = table[:, row, column].reshape(-1, *[1] * (term.ndim - 1))
                found = c * term if found is None else found + c * term
        return torch.zeros_like(terms[0]) if found is None else found

    first = 0
    if step.clip is not None:
        terms.append(total(0).clamp(*step.clip))
        first = 1
    terms += [values[i].to(dtype) for i in step.normals]
    return [total(first + j).to(kind) for j, kind in enumerate(kinds)]


_compiled = CompiledFunctions(_work)


class _Places:
    """Tensors in a list, each of them once, and the list that steps are told of."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self._known: dict[int, int] = {}

    def of(self, tensor: Tensor) -> int:
        """The place of a tensor."""
        if id(tensor) not in self._known:
            self._known[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return self._known[id(tensor)]


class _Segment(NamedTuple):
    """Steps that are one call of compiled code, on these tensors; draws: noises made before it."""

    layout: _Layout
    tensors: list[Tensor]
    draws: list[tuple[int, Tensor]]


class _Run:
    """Buffers of one shape, and calls of compiled code bound to them."""

    def __init__(
        self,
        prepared: Prepared,
        key: BufferKey,
        arguments: Mapping[str, Any],
        start: tuple[Tensor, Tensor, Tensor],
        whole: bool,
        fixed: bool,
    ) -> None:
        self._fixed = fixed
        self.key, self._net, self._program = key, prepared.model.net, prepared.program()
        with torch.inference_mode(False):  # for later runs in whatever mode
            self._arguments = StaticArguments(arguments, key.device)
            tables = prepared.tables(key.device)
            self._coefficients = tables.coefficients
            self._buffers = InPlaceRun(self._program, tables, key, prepared.backend)
            self._times = TimeRows(prepared.new_time_tables(key.shape[0], key.device)).times
            # What is wrong with the network is said as without torch.compile.
            calls = prepared.network_calls(*start, self._arguments.values)
            point = torch.zeros(key.shape, dtype=key.dtypes[1], device=key.device)
            self._like = calls(0, point, None)[0].detach()
            count = len(self._program.calls)
            parts = [range(-1, count)] if whole else [range(k, k + 1) for k in range(-1, count)]
            self._held: dict[int, Tensor] = {}
            self._free: list[Tensor] = []
            self._noise: list[Tensor] = []
            made = [self._segment(part, whole) for part in parts]
        self._segments = [segment for segment in made if segment is not None]
        self._calls: list[Call | None] = [None] * len(self._segments)
        networks = [any(s.output is not None for s in x.layout.steps) for x in self._segments]
        self._first = networks.index(True)

    def _segment(self, evaluations: range, whole: bool) -> _Segment | None:
        places, draws = _Places(), list[tuple[int, Tensor]]()
        steps, stored = [], set[int]()
        for k in evaluations:
            step = self._step(k, places, draws, stored, whole)
            if step is not None:
                steps.append(step)
        if whole:
            stored = {places.of(self._buffers.slots[self._program.result])}
        if not steps:
            return None
        return _Segment(_Layout(tuple(steps), tuple(sorted(stored))), places.tensors, draws)

    def _step(
        self,
        k: int,
        places: _Places,
        draws: list[tuple[int, Tensor]],
        stored: set[int],
        whole: bool,
    ) -> _Step | None:
        program, slots, place = self._program, self._buffers.slots, places.of
        stage, table = program.stages[k + 1], self._coefficients[k + 1]
        network: tuple[int | None, tuple[int, ...], int | None] = (None, (), None)
        if k >= 0:
            output = -1 - k if whole else -1  # where no tensor is: it does not outlive the call
            if k in program.held[k + 1] and not whole:
                self._held[k] = self._free.pop() if self._free else torch.empty_like(self._like)
                output = place(self._held[k])
                stored.add(output)
            times = tuple([place(t) for t in self._times[k]])
            network = place(slots[program.calls[k].input]), times, output
        if stage is None or table is None:
            return None if k < 0 else _Step(*network, None, (), (), (), (), None)
        inputs = []
        for i in stage.inputs:
            if isinstance(i, int):
                inputs.append(place(slots[i]))
            else:
                assert isinstance(i, Raw)
                held = None if i.evaluation == k else self._held.get(i.evaluation)
                fresh = network[2] if i.evaluation == k else -1 - i.evaluation  # of the whole loop
                inputs.append(place(held) if held is not None else int(fresh or 0))
        for e in [e for e in self._held if e not in program.held[k + 1] and e != k]:
            self._free.append(self._held.pop(e))
        for n, normal in enumerate(stage.normals):
            if n == len(self._noise):
                state = self.key.dtypes[0]
                self._noise.append(torch.empty(self.key.shape, dtype=state, device=self.key.device))
            draws.append((normal.draw, self._noise[n]))
        outputs = tuple([place(slots[o]) for o in stage.outputs])
        stored.update(outputs)
        present = tuple([tuple([bool(c) for c in row]) for row in stage.table])
        normals = tuple([place(self._noise[n]) for n in range(len(stage.normals))])
        return _Step(*network, place(table), tuple(inputs), normals, outputs, present, stage.clip)

    def __call__(
        self, start: tuple[Tensor, Tensor, Tensor], in_order: bool, arguments: Mapping[str, Any]
    ) -> Tensor:
        """A run from an initial state, with seeds and ids."""
        self._arguments.load(arguments)
        buffers = self._buffers
        buffers.start(*start, in_order)
        for i, segment in enumerate(self._segments):
            for draw, noise in segment.draws:
                shape, dtype = self.key.shape, noise.dtype
                noise.copy_(normals(shape, buffers.seeds, buffers.ids, draw, Stream.SOLVER, dtype))
            kept = self._calls[i]
            if kept is not None and (self._fixed or i != self._first):
                kept()
                continue
            # What the network depends on is looked at in its first call of a run.
            subject = self._net, self._arguments.values, segment.layout
            made, _ = _compiled.of(self._net, segment.layout).bound(subject, *segment.tensors)
            if not (isinstance(kept, CompiledCall) and kept.same(made)):
                self._calls[i + 1 :] = [None] * (len(self._calls) - i - 1)
            self._calls[i] = made
        return buffers.finish()


class CompiledRuns:
    """A sampler's runs whose network and stages are compiled together, on buffers that are kept.

    Args:
        prepared: the model and plan, of runs that are nothing but the network and linear stages.
        whole: the loop as one graph instead of each step.
        fixed: what the network depends on stays as it is in the first run of a shape.
    """

    def __init__(self, prepared: Prepared, whole: bool, fixed: bool) -> None:
        self.prepared, self._whole, self._fixed = prepared, whole, fixed
        self._idle: Idle[Hashable, _Run] = Idle(4)

    def __call__(
        self,
        shape_or_x: Sequence[int] | Tensor,
        seed: int | Sequence[int] | Tensor,
        sample_ids: Sequence[int] | Tensor | None,
        device: torch.device | str | None,
        arguments: Mapping[str, Any],
    ) -> Tensor:
        """A sample; see `Sampler.__call__`.

        Raises:
            ValueError: where torch.compile cannot compile it, with its reason.
        """
        prepared = self.prepared
        start = prepared.initial(shape_or_x, seed, sample_ids, device)
        x, seeds, _ = start
        buffers = BufferKey(tuple(x.shape), x.device, prepared.dtypes, seeds.numel(), False, False)
        leaves, structure = pytree.tree_flatten(dict(arguments))
        kinds = tuple([_kind(leaf) for leaf in leaves])
        key = buffers, str(structure), kinds, torch.is_autocast_enabled(x.device.type)
        with unrecorded(prepared.model.net):
            run = self._idle.take(key)
            if run is None:
                run = _Run(prepared, buffers, arguments, start, self._whole, self._fixed)
            try:
                result = run(start, sample_ids is None, arguments)
            except CompileError as error:
                raise ValueError(
                    f"compile={'loop' if self._whole else True!r}: torch.compile cannot make one "
                    f"graph of the network ({error}); leave compile out, or give Model a network "
                    "that is compiled in parts, torch.compile(net)"
                ) from error
        self._idle.keep(key, run)
        return result


def _kind(leaf: Any) -> Hashable:
    return (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else (type(leaf), repr(leaf))


def runs_of(prepared: Prepared, compile: bool | str, fixed: bool) -> CompiledRuns | None:
    """Compiled runs of a network and linear stages; None where there is more to do.

    Raises:
        ValueError: where the whole loop is asked for and cannot be one graph.
    """
    model, plan, stages = prepared.model, prepared.plan, prepared.program().stages
    plain = prepared.guidance is None and prepared.transform is None and not model.learned_variance
    plain = plain and model.traceable
    inputs = [i for stage in stages if stage is not None for i in stage.inputs]
    linear = all(isinstance(i, int | Raw) for i in inputs)
    good = plain and linear and model.parametrisation.outputs == 1 and plan.nfe > 0
    if compile == "loop":
        if not good or plan.draws:
            raise ValueError(
                "compile='loop': for plans without noise, of networks of one output without "
                f"guidance and transforms; {plan.solver!r} is not run so here: use compile=True"
            )
        if plan.nfe > MOST:
            raise ValueError(
                f"compile='loop': {plan.nfe} evaluations, at most {MOST} become one graph; use "
                "compile=True"
            )
    return CompiledRuns(prepared, compile == "loop", fixed) if good else None
