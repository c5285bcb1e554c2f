"""Running a lowered program with new tensors for every value, for autograd."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from fastgen.kernels import Known
from fastgen.kernels.combine.operator import combine
from fastgen.plans import Program, Stage
from fastgen.plans.program import Raw
from fastgen.sampling.run import CallsNetwork, check_fresh
from fastgen.sampling.tables import Tables


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
        self.known: Known | None = None

    def start(
        self,
        x: Tensor,
        seeds: Tensor,
        ids: Tensor,
        in_order: bool = False,
        known: Known | None = None,
    ) -> None:
        """Take the initial state, seeds and ids of a run, and what is known of its data."""
        self.known = known
        x = x.clone()  # a network or a callback that writes to it does not reach the caller's
        self.slots = [x] * len(self.dtypes)
        self.noise = self.tables.noise(seeds, ids)

    def advance(self, k: int, calls: CallsNetwork) -> None:
        """Evaluation k (none for -1) and the stage after it."""
        stage, older = self.program.stages[k + 1], dict(self.raws)

        def segment(
            start: Tensor, state: Tensor | None, *values: Tensor
        ) -> tuple[tuple[Tensor, ...], list[Tensor]]:
            raws = older | {k: calls(k, start, state) if k >= 0 else ()}
            if stage is None:
                return raws[k], []
            rest = iter(values)
            tensors = [
                raws[i.evaluation][i.branch]
                if isinstance(i, Raw)
                else next(rest)
                if isinstance(i, int)
                else calls.provide(i, raws[k], state, self.dtypes[0])
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
        for output in own:
            check_fresh(output, older)
        self.raws = {i: (older | {k: own})[i] for i in self.program.held[k + 1]}
        self._last = own, state

    def evaluated(self, k: int) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The outputs of evaluation k, the last, of an observed run, and the state it was at."""
        return self._last

    def resume(self, state: int, calls: CallsNetwork) -> None:
        """Go on from an observed state as it is now, after a callback has written to it."""
        stage, (own, point) = self.program.resumed[state], self._last
        if stage is None:
            return
        tensors = [
            self.slots[i]
            if isinstance(i, int)
            else self.raws[i.evaluation][i.branch]
            if isinstance(i, Raw)
            else calls.provide(i, own, point, self.dtypes[0])
            for i in stage.inputs
        ]
        outputs = self._combine(len(self.program.stages) + state, stage, tensors)
        for slot, output in zip(stage.outputs, outputs, strict=True):
            self.slots[slot] = output

    def _combine(self, s: int, stage: Stage, tensors: list[Tensor]) -> list[Tensor]:
        table = self.tables.coefficients[s]
        assert table is not None
        dtypes = [self.dtypes[o] for o in stage.outputs]
        known = self.known if stage.known else None
        return combine(tensors, table, dtypes, clip=stage.clip, noise=self.noise[s], known=known)

    def finish(self) -> Tensor:
        """The result."""
        return self.slots[self.program.result]
