"""Runs of which rows are chosen on the way: between an evaluation and the stage after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor

from fastgen.common.modes import unrecorded
from fastgen.plans.forms import Computed, Normal
from fastgen.sampling.network_calls import NetworkCalls
from fastgen.sampling.observation import last_evaluation
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.run import InPlaceRun

# (evaluation, data prediction) -> (rows, ids): row i goes on from row rows[i], as sample ids[i].
# None: all go on as they are.
Choose = Callable[[int, Tensor], tuple[Tensor, Tensor] | None]


def points_of(prepared: Prepared) -> list[int]:
    """The evaluations after which rows may be given other ids, so that their futures differ.

    Noise is a function of the id: one that is drawn before such a point must not be drawn again
    after it, and some must be drawn after it. The state must still be there, for its prediction.
    """
    program = prepared.program(True, False)
    draws: list[set[int]] = []
    for stage in program.stages:
        read = () if stage is None else (*stage.normals, *stage.inputs)
        draws.append({i.draw for i in read if isinstance(i, Normal | Computed)})
    found = []
    for k, call in enumerate(program.calls):
        if call.state is None and not _is_state(prepared, k):
            continue
        before, after = set[int]().union(*draws[: k + 1]), set[int]().union(*draws[k + 1 :])
        if after and not before & after:
            found.append(k)
    return found


def _is_state(prepared: Prepared, k: int) -> bool:
    """Whether the network is given the state itself at evaluation k."""
    state, network = prepared.dtypes
    t = prepared.plan.evaluations[k].time
    return state == network and prepared.parametrisation.input_scale(t) == 1


class SelectingCalls:
    """The network calls of a run, after some of which rows are chosen; as `NetworkCalls`."""

    def __init__(
        self,
        prepared: Prepared,
        calls: NetworkCalls,
        run: InPlaceRun,
        points: Collection[int],
        choose: Choose,
    ) -> None:
        self._prepared, self._calls, self._run = prepared, calls, run
        self._points, self._choose = frozenset(points), choose
        self._last: tuple[tuple[Tensor, ...], Tensor | None] = (), None
        self.known = run.known
        self.provide = calls.provide

    def __call__(self, k: int, network_input: Tensor, state: Tensor | None) -> tuple[Tensor, ...]:
        """The outputs of evaluation k, in the order that was chosen."""
        outputs = self._calls(k, network_input, state)
        if k not in self._points:
            return outputs
        self._last = outputs, network_input if state is None else state
        chosen = self._choose(k, last_evaluation(self._prepared, self, k).data())
        if chosen is None:
            return outputs
        rows, ids = chosen
        self._run.select(rows, ids)
        self._calls.select(rows, ids)
        return tuple([output.index_select(0, rows) for output in outputs])

    def evaluated(self, k: int) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """The outputs of evaluation k, the last, and the state it was at."""
        return self._last


def run_selected(
    prepared: Prepared,
    start: tuple[Tensor, Tensor, Tensor],
    arguments: Mapping[str, Any],
    points: Collection[int],
    choose: Choose,
) -> Tensor:
    """A run of a batch [B, ...] whose rows are chosen after the evaluations ``points``.

    Args:
        prepared: model and plan.
        start: the initial state, seeds and ids, as `Prepared.initial` gives them.
        arguments: of the network.
        points: some of `points_of`.
        choose: which rows go on.
    """
    x, seeds, ids = start
    run, rows = prepared.workspace(True, False, x, seeds)
    calls = prepared.network_calls(x, seeds, ids, arguments, rows=rows)
    selecting = SelectingCalls(prepared, calls, run, points, choose)
    run.start(x, seeds, ids)
    with unrecorded(prepared.model.net):
        for k in range(-1, prepared.plan.nfe):
            run.advance(k, selecting)
    result = run.finish()
    prepared.keep(run, rows)
    return result


def selectable(prepared: Prepared) -> list[int]:
    """`points_of` a run.

    Raises:
        ValueError: where there are none.
    """
    plan = prepared.plan
    points = points_of(prepared)
    if points:
        return points
    remedy = "choose one that adds noise in its steps (ddpm, ddim with eta=1, euler_ancestral)"
    if plan.draws == 0:
        raise ValueError(
            f"plan: {plan.solver!r} adds no noise, so that all samples drawn anew from one would "
            f"be the same; {remedy}, or take the best of several (fastgen.best_of)"
        )
    raise ValueError(
        f"plan: every noise of {plan.solver!r} belongs to more than one evaluation, or comes "
        f"before the first; {remedy}"
    )
