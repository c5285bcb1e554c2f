"""From a program to stages: one kernel call after each network evaluation.

Between two evaluations everything is elementwise and linear, so it is one stage. Forms of the
stage's own registers and of the current prediction are expanded to what the stage can read:
the network's raw output, and the values that earlier stages left in buffers. A stage writes
only what is read later (liveness, from the last stage to the first); buffers are then handed
out from the first stage to the last, and a value that dies in a stage leaves its buffer to one
that is born there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from fastgen.kernels.combine.contract import MAX_INPUTS, MAX_NOISES, MAX_OUTPUTS
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans.forms import (
    Computed,
    Evaluate,
    Form,
    Increment,
    Instruction,
    Let,
    Normal,
    Prediction,
    State,
    Value,
)
from fastgen.plans.program import (
    CLIPPED,
    Atom,
    Call,
    Clipped,
    Given,
    NetworkInput,
    Program,
    Raw,
    Stage,
    Terms,
    order,
)

Weights: TypeAlias = Callable[[float], tuple[float, ...]]


class _Node:
    """A stage before its buffers are known: outputs and the clipped value over its inputs.

    reads: inputs, states in order, then predictions from the newest to the oldest: stored, held.
    """

    def __init__(self, outputs: dict[Atom, Terms], clipped: Terms) -> None:
        self.outputs, self.clipped = outputs, clipped
        self.rows = [*([clipped] if clipped else []), *outputs.values()]
        atoms = {atom for row in self.rows for atom in row}
        self.normals = sorted(a for a in atoms if isinstance(a, Normal))
        reads = [a for a in atoms if not isinstance(a, (Normal, Clipped))]
        self.reads = sorted(reads, key=order)


class _Lowering:
    def __init__(
        self,
        instructions: Sequence[Instruction],
        parametrisation: Parametrisation,
        clip: tuple[float, float] | None,
        cast: bool,
        hold_outputs: bool,
        weights: Weights,
    ) -> None:
        self.parametrisation, self.clip = parametrisation, clip
        self.hold_outputs, self.weights = hold_outputs, weights
        self._conversions: dict[tuple[str, float], tuple[float, float]] = {}
        self.evaluations = [i for i in instructions if isinstance(i, Evaluate)]
        self.segments: list[dict[Value, Form]] = [{}]
        for i in instructions:
            if isinstance(i, Evaluate):
                self.segments.append({})
            elif isinstance(i, Let):
                self.segments[-1][i.value] = i.form
        self.born = {v: s for s, lets in enumerate(self.segments) for v in lets} | {Value(0): 0}
        self.reads_state = {
            s.evaluation
            for lets in self.segments
            for form in lets.values()
            for s in form.terms
            if isinstance(s, Computed) and s.kind == "langevin"
        }
        if parametrisation.transformed:
            self.reads_state = set(range(len(self.evaluations)))
        scales = [parametrisation.input_scale(e.time) for e in self.evaluations]
        self.scales = {k: c for k, c in enumerate(scales) if cast or c != 1.0}

    def conversion(self, quantity: str, time: float) -> tuple[float, float]:
        """`Parametrisation.conversion`, computed once: many stages read one prediction."""
        key = quantity, time
        if key not in self._conversions:
            self._conversions[key] = self.parametrisation.conversion(quantity, time)
        return self._conversions[key]

    def network_input(self, k: int) -> Atom:
        """What the network reads: the state itself, unless it must be scaled or cast."""
        return NetworkInput(k) if k in self.scales else self.evaluations[k].x

    def prediction(self, symbol: Prediction, segment: int) -> Terms:
        """A prediction in terms of what the stage of ``segment`` can read."""
        k, quantity = symbol.evaluation, symbol.quantity
        x, time = self.evaluations[k].x, self.evaluations[k].time
        clips = self.clip is not None and not symbol.unconditional
        p, q = self.conversion(quantity, time)
        raws = self.raws(k, q, symbol.unconditional, self.parametrisation.output(quantity))
        if k == segment - 1:
            if clips:
                p, q = self.parametrisation.from_data(quantity, time)
                return _nonzero({x: p, CLIPPED: q})
            return _nonzero({x: p, **raws})
        if p == 0 and len(raws) == 1 and not clips and self.hold_outputs:
            return raws  # kept by reference: no copy
        return {symbol: 1.0}

    def raws(self, k: int, factor: float, unconditional: bool = False, output: int = 0) -> Terms:
        """The network's prediction at evaluation k: one output, or the guided sum of two."""
        if output:
            return {Raw(k, output): factor}
        weights = self.weights(self.evaluations[k].time)
        if unconditional and len(weights) > 1:
            return {Raw(k, 1): factor}
        return {Raw(k, branch): factor * w for branch, w in enumerate(weights)}

    def clipped(self, segment: int) -> Terms:
        """The data prediction before clipping."""
        e = self.evaluations[segment - 1]
        p, q = self.conversion("data", e.time)
        return _nonzero({e.x: p, **self.raws(segment - 1, q)})

    def expand(self, form: Form, segment: int) -> Terms:
        """A form in terms of what the stage of ``segment`` can read."""
        total: Terms = {}
        for symbol, c in form.terms.items():
            part: Terms = {symbol: 1.0}
            if isinstance(symbol, Prediction):
                part = self.prediction(symbol, segment)
            elif isinstance(symbol, Value) and symbol in self.segments[segment]:
                part = self.expand(self.segments[segment][symbol], segment)
            for atom, factor in part.items():
                total[atom] = total.get(atom, 0.0) + c * factor
        return _nonzero(total)

    def terms(self, output: Atom, segment: int) -> Terms:
        if isinstance(output, NetworkInput):
            k = output.evaluation
            return self.expand(Form({self.evaluations[k].x: self.scales[k]}), segment)
        if isinstance(output, Prediction):
            return self.prediction(output, segment)
        assert isinstance(output, Value)
        return self.expand(self.segments[segment][output], segment)

    def nodes(self, keep: Iterable[Value]) -> list[_Node]:
        """Every stage's outputs and what they read, found from the last stage to the first."""
        needed: set[Atom] = set(keep)
        nodes: list[_Node] = []
        for s in reversed(range(len(self.segments))):
            outputs: list[Atom] = []
            if s < len(self.evaluations):
                needed.add(self.network_input(s))
                if s in self.reads_state:
                    needed.add(self.evaluations[s].x)
            outputs += [v for v in self.segments[s] if v in needed]
            outputs += [a for a in [NetworkInput(s)] if a in needed]
            outputs += sorted(
                a for a in needed if isinstance(a, Prediction) and a.evaluation == s - 1
            )
            stage = {a: self.terms(a, s) for a in outputs}
            uses_clipped = any(CLIPPED in terms for terms in stage.values())
            node = _Node(stage, self.clipped(s) if uses_clipped else {})
            reads = {a for a in node.reads if not isinstance(a, Computed | Increment)}
            own = {Raw(s - 1, branch) for branch in (0, 1)}
            needed = (needed | reads) - set(outputs) - own
            nodes.append(node)
        return nodes[::-1]


def _nonzero(terms: Terms) -> Terms:
    return {atom: c for atom, c in terms.items() if c != 0}


def lower(
    instructions: Sequence[Instruction],
    result: Value,
    parametrisation: Parametrisation,
    *,
    clip: tuple[float, float] | None = None,
    cast: bool = False,
    observe: bool = False,
    keep_states: bool = False,
    hold_outputs: bool = True,
    weights: Weights = lambda t: (1.0,),
) -> Program:
    """Turn a program into stages for one kind of network.

    Args:
        instructions: the program.
        result: the register to return.
        parametrisation: what the network predicts.
        clip: bounds of the data prediction, or None.
        cast: whether the network's dtype differs from the state's.
        observe: write every state of the plan in the stage that computes it (callbacks).
        keep_states: and give no state's buffer to another value (trajectories).
        hold_outputs: a raw network output that later stages read may be kept by reference;
            False for networks that overwrite their last output.
        weights: the factors of the network's outputs at a time (see `fastgen.Guidance`).

    Raises:
        ValueError: where a stage exceeds the kernel's limits or has nothing but noise to read,
            or a prediction cannot be converted (see `Parametrisation.conversion`).
    """
    work = _Lowering(instructions, parametrisation, clip, cast, hold_outputs, weights)
    states = [i.value for i in instructions if isinstance(i, State)]
    observed = states if observe or keep_states else []
    nodes = work.nodes([result, *observed])

    last: dict[Atom, int] = {}  # the stage before whose outputs a value may be overwritten
    for s, node in enumerate(nodes):
        last.update(dict.fromkeys(node.reads, s))
        if s < len(work.evaluations):
            last[work.network_input(s)] = s + 1
            if s in work.reads_state:
                last[work.evaluations[s].x] = s + 1
    for value in observed:
        last[value] = max(last.get(value, 0), work.born[value] + 1)
    last.update(dict.fromkeys([result, *(states if keep_states else [])], len(nodes)))

    buffers: dict[Atom, int] = {Value(0): 0}
    network_buffers = [False]
    free: dict[bool, list[int]] = {False: [], True: []}
    stages: list[Stage | None] = []
    calls: list[Call] = []
    seen: dict[Value, tuple[int, int]] = {}
    for s, node in enumerate(nodes):
        if s == 0 and Value(0) in observed:
            seen[Value(0)] = (0, 0)
        reads = node.reads
        for a in reads:
            if isinstance(a, Computed) and a.evaluation != s - 1:
                raise ValueError(f"{a.kind} of evaluation {a.evaluation} is read in stage {s}")
        slots = tuple(a if isinstance(a, Raw | Computed | Increment) else buffers[a] for a in reads)
        for atom in [a for a in buffers if last.get(a, 0) <= s]:
            number = buffers.pop(atom)
            free[network_buffers[number]].append(number)
        for atom in node.outputs:
            kind = isinstance(atom, NetworkInput)
            if not free[kind]:
                free[kind].append(len(network_buffers))
                network_buffers.append(kind)
            buffers[atom] = free[kind].pop()
            if isinstance(atom, Value):
                seen[atom] = (s, buffers[atom])
        stages.append(_stage(s, node, slots, tuple(buffers[a] for a in node.outputs), clip))
        if s < len(work.evaluations):
            e = work.evaluations[s]
            state = buffers[e.x] if s in work.reads_state else None
            calls.append(Call(buffers[work.network_input(s)], e.time, state))
    held: list[set[int]] = [set() for _ in nodes]
    for atom, end in last.items():
        if isinstance(atom, Raw):
            for s in range(atom.evaluation + 1, end):
                held[s].add(atom.evaluation)
    return Program(
        stages=tuple(stages),
        calls=tuple(calls),
        network_buffers=tuple(network_buffers),
        result=buffers[result],
        states=tuple(seen[v] for v in observed),
        held=tuple(map(frozenset, held)),
    )


def _stage(
    s: int,
    node: _Node,
    inputs: tuple[int | Raw | Given, ...],
    outputs: tuple[int, ...],
    clip: tuple[float, float] | None,
) -> Stage | None:
    if not outputs:
        return None
    reads, normals = node.reads, node.normals
    for what, count, limit in (
        ("inputs", len(inputs), MAX_INPUTS),
        ("outputs", len(outputs), MAX_OUTPUTS),
        ("noises", len(normals), MAX_NOISES),
    ):
        if count > limit:
            raise ValueError(f"stage {s} has {count} {what}, the kernels take at most {limit}")
    if not inputs:
        raise ValueError(f"stage {s} reads no state or prediction, only noise")
    columns: list[Atom] = [*reads, *([CLIPPED] if node.clipped else []), *normals]
    table = np.array([[row.get(a, 0.0) for a in columns] for row in node.rows])
    bounds, ranks = clip if node.clipped else None, tuple(map(order, node.outputs))
    return Stage(inputs, outputs, table, bounds, tuple(normals), ranks)
