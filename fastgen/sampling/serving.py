"""Continuous batching: requests at different steps of different plans share every network call."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_sizes
from fastgen.common.devices import Turns
from fastgen.common.display import displayed
from fastgen.common.graphs import Recording, recorded, warm_up
from fastgen.common.modes import unrecorded
from fastgen.common.transforms import BACKWARD, untransformed
from fastgen.common.typed import typed
from fastgen.kernels import Noise, Stream, dispatch
from fastgen.model.model import merged
from fastgen.noise.keys import id_tensor, seed_tensor
from fastgen.plans import Plan
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.run import check_fresh
from fastgen.sampling.served_guidance import MergedRows, RequestScale, check_request_scale
from fastgen.sampling.served_plan import (
    Place,
    Request,
    ServedPlan,
    alone,
    check_servable,
    layout_of,
    served_plan,
)
from fastgen.sampling.served_rows import Seen, ServedArguments, ServedCalls

# Plans and guidance scales whose tables stay on the device.
KEPT_PROGRAMS = 64


@displayed
class ContinuousBatch:
    """Rows of a batch as places for requests; made by `Sampler.serve`.

    ::

        batch = sampler.serve((8, 3, 64, 64))
        ticket = batch.admit(seed=7)
        while batch.active:
            for ticket, x in batch.step().items(): ...

    A step is one network call on all rows and one kernel call after it, whatever steps and plans
    the requests are at: coefficients, times and draws are looked up on the device by every row's
    own step index. A request's result equals that of a run alone bit for bit (with a rule of
    guidance, to rounding) if the network treats rows alike and apart (in libraries for matrix
    products, the batch's size may decide the order of additions). Not for two threads at once.
    """

    def __init__(
        self,
        prepared: Prepared,
        shape: Sequence[int],
        plans: Sequence[Plan],
        device: torch.device,
        capture: bool,
        net_kwargs: dict[str, Any],
        previews: bool = False,
    ) -> None:
        check_servable(prepared)
        declared = prepared.model.declared  # of what is known too
        prepared = prepared.masked or prepared
        self._prepared, self._device, self._capture = prepared, device, capture
        empty = torch.zeros(check_sizes("shape", shape), device=device)
        self._shape = prepared.initial(empty, 0, None, device)[0].shape
        rows = self._shape[0]
        layouts = [layout_of(alone(prepared, plan, None)) for plan in (prepared.plan, *plans)]
        layout = layouts[0]
        for other in layouts:
            layout = layout.join(other)
        guidance = prepared.guidance
        if guidance is not None and not guidance.merges:
            layout = layout.join(replace(layout, branches=1 + len(guidance.branches)))
        self.layout = layout
        state, network = prepared.dtypes
        self._slots = [
            torch.zeros(self._shape, dtype=state, device=device) for _ in range(layout.slots)
        ]
        if layout.fed is None:
            self._input = torch.zeros(self._shape, dtype=network, device=device)
            self._written = [*self._slots, self._input]
        else:
            self._input, self._written = self._slots[layout.fed], self._slots
        self._seen = Seen(self._input) if previews else None
        # A graph works on fixed memory; else the last outputs stay where the network put them.
        self._copies = capture or prepared.model.reuses_output
        self._history: list[Tensor] = []
        self._seeds, self._ids = torch.zeros((2, rows), dtype=torch.int64, device=device).unbind()
        length = layout.evaluations + 1
        real, whole = torch.float64, torch.int64
        self._tables = torch.zeros((rows * length, *layout.table), dtype=real, device=device)
        self._draws = torch.zeros((rows * length, layout.noises), dtype=whole, device=device)
        self._table = torch.zeros((rows, *layout.table), dtype=real, device=device)
        self._draw = torch.zeros((rows, layout.noises), dtype=whole, device=device)
        self._last = torch.arange(rows, device=device) * length + layout.evaluations
        self._position = self._last.clone()
        self._merging = None
        if guidance is not None and guidance.merges:
            self._merging = MergedRows(guidance, rows, length, device)
        self._plans: dict[tuple[int, object], ServedPlan] = {}
        # Rows without a request are evaluated too: at a time that the network can take.
        own = self._embedded(prepared.plan, None)
        self._times = own.times.repeat(1, rows)
        self._arguments = ServedArguments(prepared, declared, net_kwargs, self._slots[0])
        keys, passed = (self._seeds, self._ids), self._arguments.network
        self._calls = ServedCalls(prepared, self._input, keys, passed, self._merging)
        self._turns = Turns(device)
        self._normals = dispatch.find("normals", device, prepared.backend)
        self._bind_combine = dispatch.find("bind_combine", device, prepared.backend)
        self._bound: Any = None
        self._recording: Recording | None = None
        self._places: dict[int, Place] = {}
        self._free = list(range(rows))[::-1]
        self._requests: dict[int, Request] = {}
        self._due: dict[int, list[int]] = {}  # tickets by the step that finishes them
        self._steps = self._tickets = 0

    def __getstate__(self) -> dict[str, Any]:
        """Copies bind their calls and record their steps on their own memory, when they step."""
        plans = [(scale, embedded) for (_, scale), embedded in self._plans.items()]
        made: dict[str, Any] = {"_bound": None, "_recording": None, "_places": {}}
        return self.__dict__ | made | {"_plans": plans}

    def __setstate__(self, state: dict[str, Any]) -> None:
        plans = {(id(e.prepared.plan), scale): e for scale, e in state["_plans"]}
        self.__dict__.update(state, _plans=plans)

    def __copy__(self) -> ContinuousBatch:
        """Of the same model and plans, with requests of its own."""
        shared = [self._prepared, *self._plans.values()]
        return copy.deepcopy(self, {id(held): held for held in shared})

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"shape": self._shape, "active": self.active, "free": self.free}
        facts |= self._prepared.facts() | {"device": self._device, "graphed": self.graphed}
        return facts

    @property
    def active(self) -> int:
        """Number of requests in the batch."""
        return len(self._requests)

    @property
    def free(self) -> int:
        """Number of requests that can be admitted now."""
        return len(self._free)

    @property
    def graphed(self) -> bool:
        """Whether a step replays a CUDA graph."""
        return self._recording is not None and self._recording.graphed

    @untransformed(BACKWARD)
    @typed
    def admit(
        self,
        x: Tensor | None = None,
        *,
        seed: int = 0,
        sample_id: int = 0,
        data: Tensor | None = None,
        plan: Plan | None = None,
        scale: RequestScale | None = None,
        net_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> int:
        """Take a request for one sample.

        Args:
            x: the initial state [...], without a batch axis; the default is drawn from the seed.
            seed, sample_id: what determines the noise.
            data: [...], with which to begin as in `Sampler.__call__`, instead of x.
            plan: how to sample; the default is the sampler's plan.
            scale: the guidance scale, or those of the branches by name; the default is the
                sampler's, if that is not one per sample.
            net_kwargs, **kwargs: the row's part of the tensors that `Sampler.serve` was given
                with a batch axis, each without it; what is left out has the values given there.

        Returns:
            A ticket, under which `step` returns the sample.

        Raises:
            RuntimeError: if no row is free.
            ValueError: if the plan does not fit the batch, or an argument its row.
        """
        check_request_scale(self._prepared.guidance, scale)
        if not self._free:
            raise RuntimeError(f"all {self._shape[0]} rows are taken; step until one is finished")
        found = self._embedded(self._prepared.plan if plan is None else plan, scale)
        x = found.beginning(x, data, self._shape[1:], seed, sample_id)
        keys = seed_tensor(seed, 1, self._device), id_tensor([sample_id], 1, self._device)
        row = self._free[-1]
        self._turns.take()
        self._arguments.write(row, merged(net_kwargs, kwargs))
        self._free.pop()
        self._tickets += 1
        due = self._steps + found.nfe
        self._requests[self._tickets] = Request(row, found, due)
        self._due.setdefault(due, []).append(self._tickets)
        place = self._place(row, found)
        with torch.no_grad():
            if x is None:
                z = self._normals(place.state.numel(), *keys, 0, Stream.INITIAL)
                place.state.copy_(z.view(place.state.shape)).mul_(found.scale)
            else:
                place.state.copy_(x)
            place.take(keys, found, row * (self.layout.evaluations + 1))
            if self._merging is not None and found.merging is not None:
                self._merging.admit(row, found.merging)
        return self._tickets

    def step(self) -> dict[int, Tensor]:
        """Evaluate the network once on all rows.

        Returns:
            The samples [...] of the requests that this step finished, by ticket; their rows are
            free again.
        """
        if not self._requests:
            return {}
        self._turns.take()
        with unrecorded(self._prepared.model.net):
            if not self._capture:
                self._advance()
            elif self._recording is None:
                self._record()
            else:
                self._recording.replay()
        self._steps += 1
        finished = {}
        for ticket in self._due.pop(self._steps, ()):
            finished[ticket] = self._slots[0][self._requests[ticket].row].clone()
            self._leave(ticket)
        return finished

    def retire(self, ticket: int) -> None:
        """Take a request that is not finished out of the batch.

        Raises:
            KeyError: if there is none of that ticket.
        """
        self._due[self._request(ticket).due].remove(ticket)
        self._leave(ticket)

    def _leave(self, ticket: int) -> None:
        """Take a request out whose step is no longer awaited."""
        row = self._requests.pop(ticket).row
        self._turns.take()
        self._free.append(row)
        # The tables of the last index are zeros: an idle row is evaluated at the state 0.
        self._position[row : row + 1].fill_((row + 1) * (self.layout.evaluations + 1) - 1)

    def evaluations(self, ticket: int) -> tuple[int, int]:
        """How many evaluations a request has had, and how many it takes in all."""
        request = self._request(ticket)
        return request.embedded.nfe - (request.due - self._steps), request.embedded.nfe

    def preview(self, ticket: int) -> Tensor:
        """The data prediction [...] of a request's last evaluation, guided and clipped.

        E[x_0 | x] as the network sees it, for pictures on the way; of a batch that was made with
        ``previews=True``, which keeps the network's inputs.

        Raises:
            KeyError: if there is no such request in the batch.
            RuntimeError: before its first step, and without ``previews``.
            ValueError: where the network's output does not determine the data.
        """
        request = self._request(ticket)
        if self._seen is None:
            raise RuntimeError("preview: make the batch with Sampler.serve(..., previews=True)")
        done = request.embedded.nfe - (request.due - self._steps)
        if not done:
            raise RuntimeError(f"ticket {ticket}: nothing is evaluated yet; step first")
        self._turns.take()
        found = self._seen.data(request.row, request.embedded.prepared, done - 1)
        return self._arguments.kept(request.row, found)

    def _request(self, ticket: int) -> Request:
        if ticket not in self._requests:
            raise KeyError(f"ticket {ticket}: not in the batch, which has {list(self._requests)}")
        return self._requests[ticket]

    def _advance(self) -> None:
        """A step, all of it on the device."""
        position = self._position
        torch.index_select(self._tables, 0, position, out=self._table)
        torch.index_select(self._draws, 0, position, out=self._draw)
        times = tuple([column.index_select(0, position) for column in self._times])
        if self._merging is not None:
            self._merging.look(position)
        evaluate = self._calls.at(times)
        if self._seen is not None:
            self._seen.before(self._input)
        outputs = [self._own(output) for output in evaluate(0, self._input, None)]
        if self._seen is not None:
            self._seen.after(outputs)
        if self._bound is None:
            self._bind(outputs)
        held = [*outputs, *self._history]
        if self._copies:
            self._bound(outputs)
            # From the oldest output to the newest.
            for newer, older in list(zip(held, self._history, strict=False))[::-1]:
                older.copy_(newer)
        else:
            for output in outputs:
                check_fresh(output, {0: tuple(self._history)})
            self._bound(held)
            self._history = held[: len(self._history)]
        torch.minimum(position.add_(1), self._last, out=position)

    def _own(self, output: Tensor) -> Tensor:
        """The output, in memory that the call does not write."""
        storage = output.untyped_storage().data_ptr()
        own = self._written
        if any(storage == t.untyped_storage().data_ptr() for t in own):
            return output.clone()
        return output

    def _bind(self, outputs: list[Tensor]) -> None:
        count = (self.layout.ages - 1) * self.layout.branches
        if not self._history:
            with torch.inference_mode(False):  # for later steps in whatever mode
                self._history = [
                    torch.zeros(y.shape, dtype=y.dtype, device=y.device)
                    for y in islice(cycle(outputs), count)
                ]
        history = self._history if self._copies else [None] * count
        self._bound = self._bind_combine(
            [*self._slots, *[None] * len(outputs), *history],
            self._written,
            self._table,
            self.layout.clip,
            self._noise(slice(None), self._draw),
            self._arguments.known,
        )

    def _noise(self, rows: slice, draws: Tensor) -> Noise | None:
        if not self.layout.noises:
            return None
        return Noise(self._seeds[rows], self._ids[rows], draws, Stream.SOLVER)

    def _record(self) -> None:
        """Record a step and take it: what trial steps change is put back."""
        state = [*self._written, self._position]
        before = [tensor.clone() for tensor in state]
        refused = warm_up(self._advance, self._device, 3)
        self._recording = recorded(self._advance, self._device, "step of a batch", refused)
        for tensor, old in zip(state, before, strict=True):
            tensor.copy_(old)
        for output in self._history:
            output.zero_()
        if self._merging is not None:
            self._merging.forget()
        self._recording.replay()

    def _place(self, row: int, request: ServedPlan) -> Place:
        """A row's part of the memory, made when it is first taken."""
        if row not in self._places:
            length = self.layout.evaluations + 1
            rows, part = slice(row, row + 1), slice(row * length, (row + 1) * length)
            with torch.inference_mode(False):  # for later requests in whatever mode
                slots = [slot[rows] for slot in self._slots]
                first, draws = request.first.clone(), request.first_draws.clone()
                outputs, noise = [x[rows] for x in self._written], self._noise(rows, draws)
                self._places[row] = Place(
                    slots[0],
                    (self._seeds[rows], self._ids[rows]),
                    (self._tables[part], self._draws[part], self._times[:, part], first, draws),
                    self._position[rows],
                    self._bind_combine(slots, outputs, first, None, noise),
                )
        return self._places[row]

    def _embedded(self, plan: Plan, scale: RequestScale | None) -> ServedPlan:
        key = id(plan), tuple(scale.items()) if isinstance(scale, Mapping) else scale
        if key not in self._plans:
            if len(self._plans) >= KEPT_PROGRAMS:
                self._plans.pop(next(iter(self._plans)))
            sampler, device = self._prepared, self._device
            self._plans[key] = served_plan(sampler, plan, scale, self.layout, device)
        return self._plans[key]
