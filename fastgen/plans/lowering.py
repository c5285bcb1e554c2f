"""From instructions to stages: one kernel call after each network evaluation.

Between two evaluations everything is elementwise and linear, so it is one stage. Three passes:

1. From the last stage to the first: what does a stage write? Only what a later stage, the network
   or the caller reads. The same pass expands each output to what the stage can read: the values
   that earlier stages left in buffers, and raw outputs of the network. Registers and predictions
   of the stage itself vanish from its sums.
2. When is each value read for the last time?
3. From the first stage to the last: a buffer for each output. A value that is not read after a
   stage leaves its buffer to a value that is written in that stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from fastgen.common.collecting import uncollected
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans.buffers import Buffers, held_outputs
from fastgen.plans.forms import (
    Computed,
    Evaluate,
    Form,
    Increment,
    Instruction,
    Let,
    Prediction,
    State,
    Value,
)
from fastgen.plans.placing import Unplaced, placed
from fastgen.plans.program import (
    CLIPPED,
    KNOWN,
    Atom,
    Call,
    NetworkInput,
    Program,
    Raw,
    Stage,
    Terms,
)

# Terms of a sum inside a stage: far above the kernels' limits, and what bounds the time that any
# plan takes.
_WIDEST = 256
Weights: TypeAlias = Callable[[float], tuple[float, ...]]


@uncollected()
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
    known: bool = False,
) -> Program:
    """Turn a plan's instructions into stages for one kind of network.

    Args:
        instructions: of the plan, in order.
        result: the register to return.
        parametrisation: what the network predicts.
        clip: bounds of the data prediction, or None.
        cast: whether the network's dtype differs from the state's.
        observe: write every state of the plan in the stage that computes it, and keep the point of
            the evaluation before it until then (callbacks).
        keep_states: and give no state's buffer to another value (trajectories).
        hold_outputs: a raw network output that later stages read may be kept by reference;
            False for networks that overwrite their last output.
        weights: the factors of the network's outputs at a time (see `fastgen.Guidance`).
        known: of some elements the data are known: there they are what every evaluation predicts,
            so that each sum has another form. What the network says of the others stays as it is.

    Raises:
        ValueError: where a stage exceeds the kernel's limits or has nothing but noise to read,
            or a prediction cannot be converted (see `Parametrisation.conversion`).
    """
    sums = _Expansion(instructions, parametrisation, clip, cast, hold_outputs, weights, known)
    states = [i.value for i in instructions if isinstance(i, State)]
    observed = states if observe or keep_states else []
    if observe:  # callbacks may ask for the data prediction of the evaluation before
        sums.reads_state |= {sums.born[v] - 1 for v in states if sums.born[v] > 0}
    unplaced = sums.stages([result, *observed])

    ends = _ends(sums, unplaced)
    # Callbacks may write to what they are shown.
    again = {v: sums.again(unplaced[sums.born[v]], v) for v in observed} if observe else {}
    read = tuple([v == result or v in ends or bool(again[v].outputs) for v in observed if observe])
    shown: dict[int, list[Value]] = {}
    for value in again:
        shown.setdefault(sums.born[value], []).append(value)
    for value in observed:  # not before it has been shown
        for atom in (value, *(again[value].reads if value in again else ())):
            ends[atom] = max(ends.get(atom, 0), sums.born[value] + 1)
        if observe and sums.born[value] > 0:
            point = sums.evaluations[sums.born[value] - 1].x
            ends[point] = max(ends.get(point, 0), sums.born[value] + 1)
    ends.update(dict.fromkeys([result, *(states if keep_states else [])], len(unplaced)))

    buffers = Buffers(ends)
    seen = {Value(0): (0, 0)}  # where each register can be observed: stage, buffer
    stages: list[Stage | None] = []
    resumed: dict[Value, Stage | None] = {}
    calls: list[Call] = []
    for s, stage in enumerate(unplaced):
        for atom in stage.reads:
            if isinstance(atom, Computed) and atom.evaluation != s - 1:
                # It depends on an output that only the stage after the evaluation still has.
                raise ValueError(
                    f"{atom.kind} of evaluation {atom.evaluation} is read in stage {s}"
                )
        inputs = buffers.places(stage.reads)
        outputs = buffers.turn(s, stage.outputs)
        seen.update({a: (s, buffers.of[a]) for a in stage.outputs if isinstance(a, Value)})
        stages.append(placed(s, stage, inputs, outputs, clip))
        for v in shown.get(s, ()):
            places = tuple([buffers.of[a] for a in again[v].outputs])
            resumed[v] = placed(s, again[v], buffers.places(again[v].reads), places, clip)
        if s < len(sums.evaluations):
            call = sums.evaluations[s]
            state = buffers.of[call.x] if s in sums.reads_state else None
            calls.append(Call(buffers.of[sums.network_input(s)], call.time, state))
    return Program(
        stages=tuple(stages),
        calls=tuple(calls),
        network_buffers=tuple(buffers.of_network),
        result=buffers.of[result],
        states=tuple(seen[v] for v in observed),
        held=held_outputs(ends, len(unplaced)),
        resumed=tuple(resumed[v] for v in observed if observe),
        read=read,
    )


class _Expansion:
    """What each stage writes, as sums of what it can read.

    A segment is the instructions between two evaluations. Segment s becomes stage s, which follows
    evaluation s - 1 and precedes evaluation s; segment 0 comes before all evaluations.

    segments: for each, its registers and their forms. born: the segment of each register.
    reads_state: evaluations whose point is read besides the network's input, unscaled and uncast.
    scales: the factor on the state where the network's input is another tensor.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        parametrisation: Parametrisation,
        clip: tuple[float, float] | None,
        cast: bool,
        hold_outputs: bool,
        weights: Weights,
        known: bool,
    ) -> None:
        self.parametrisation, self.clip = parametrisation, clip
        self.known, self._where_known = known, False  # whether sums are those of known data now
        self.hold_outputs, self.weights, self.branches = hold_outputs, weights, 2
        self._expanded: dict[Value, Terms] = {}  # registers of one segment
        self._conversions: dict[tuple[str, float], tuple[float, float]] = {}
        self._earlier: dict[Prediction, Terms] = {}  # of evaluations before a segment's own
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

    def stages(self, keep: Iterable[Value]) -> list[Unplaced]:
        """Every stage, found from the last to the first; keep: registers that the caller reads."""
        needed: set[Atom] = set(keep)  # by what comes after the stage
        # Of those, predictions that are written into buffers, by their evaluations.
        predicted: dict[int, set[Prediction]] = {}
        found: list[Unplaced] = []
        for s in reversed(range(len(self.segments))):
            if s < len(self.evaluations):
                needed.add(self.network_input(s))
                if s in self.reads_state:
                    needed.add(self.evaluations[s].x)
            outputs: list[Atom] = [v for v in self.segments[s] if v in needed]
            outputs += [a for a in [NetworkInput(s)] if a in needed]
            # Predictions that a later stage reads and that cannot be kept as the network's output.
            outputs += sorted(predicted.pop(s - 1, ()))
            stage = self._stage(s, outputs)
            # What a run provides, and the outputs of the evaluation before, need no earlier stage.
            for a in stage.reads:
                if isinstance(a, Prediction):
                    predicted.setdefault(a.evaluation, set()).add(a)
                elif not isinstance(a, Computed | Increment):
                    needed.add(a)
            needed.difference_update(outputs, [Raw(s - 1, b) for b in range(self.branches)])
            found.append(stage)
        return found[::-1]

    def again(self, stage: Unplaced, state: Value) -> Unplaced:
        """What a stage writes beside a state that depends on it, from the state as it then is."""
        s = self.born[state]
        others = [a for a in stage.outputs if a != state and not isinstance(a, Prediction)]
        rows = self._rows(s, others, state)
        return self._stage(s, [a for a in others if state in rows[a]], state)

    def _stage(self, s: int, outputs: Sequence[Atom], given: Value | None = None) -> Unplaced:
        """Outputs in terms of what stage s can read, a register as it is if it is given."""
        rows, known = self._rows(s, outputs, given), None
        if self.known:
            self._where_known = True
            known = self._rows(s, outputs, given)
            self._where_known = False
        uses_clipped = any(CLIPPED in terms for terms in rows.values())
        return Unplaced(rows, self.clipped(s) if uses_clipped else {}, known)

    def _rows(self, s: int, outputs: Sequence[Atom], given: Value | None) -> dict[Atom, Terms]:
        self._expand_segment(s, outputs, given)
        return {a: self.terms(a, s) for a in outputs}

    def terms(self, output: Atom, segment: int) -> Terms:
        """One output in terms of what the stage of ``segment`` can read."""
        if isinstance(output, NetworkInput):
            k = output.evaluation
            return self.expand(Form({self.evaluations[k].x: self.scales[k]}), segment)
        if isinstance(output, Prediction):
            return self.prediction(output, segment)
        assert isinstance(output, Value)
        known = self._expanded.get(output)
        return self.expand(self.segments[segment][output], segment) if known is None else known

    def _expand_segment(
        self, segment: int, outputs: Sequence[Atom], known: Value | None = None
    ) -> None:
        """Expand the registers of a segment that its outputs are made of, once each, in order.

        So a register that many others read costs no more than one that is read once. One that is
        ``known`` stays as it is.
        """
        lets = {v: form for v, form in self.segments[segment].items() if v != known}
        self._expanded = {}
        forms = [lets[a] for a in outputs if a in lets and isinstance(a, Value)]
        if NetworkInput(segment) in outputs:
            forms.append(Form({self.evaluations[segment].x: 1.0}))
        reached: set[Value] = set()
        while forms:
            for symbol in forms.pop().terms:
                if isinstance(symbol, Value) and symbol in lets and symbol not in reached:
                    reached.add(symbol)
                    forms.append(lets[symbol])
        for value, form in lets.items():
            if value in reached:
                self._expanded[value] = self.expand(form, segment)

    def expand(self, form: Form, segment: int) -> Terms:
        """A form in terms of what the stage of ``segment`` can read."""
        total: Terms = {}
        for symbol, c in form.terms.items():
            if isinstance(symbol, Prediction):
                part = self.prediction(symbol, segment)
            elif isinstance(symbol, Value) and symbol in self._expanded:
                part = self._expanded[symbol]
            else:
                total[symbol] = total.get(symbol, 0.0) + c
                continue
            for atom, factor in part.items():
                total[atom] = total.get(atom, 0.0) + c * factor
        if len(total) > _WIDEST:
            raise ValueError(
                f"stage {segment} has a sum of {len(total)} values, at most {_WIDEST} can be added"
            )
        return _nonzero(total)

    def prediction(self, symbol: Prediction, segment: int) -> Terms:
        """A prediction in terms of what the stage of ``segment`` can read."""
        if self._where_known:
            return self._known_prediction(symbol, segment)
        k, quantity = symbol.evaluation, symbol.quantity
        known = None if k == segment - 1 else self._earlier.get(symbol)
        if known is not None:
            return known
        x, time = self.evaluations[k].x, self.evaluations[k].time
        clips = self.clip is not None and not symbol.unconditional
        p, q = self.conversion(quantity, time)
        raws = self.raws(k, q, symbol.unconditional, self.parametrisation.output(quantity))
        if k == segment - 1:
            if clips:
                p, q = self.parametrisation.from_data(quantity, time)
                return _nonzero({x: p, CLIPPED: q})
            return _nonzero({x: p, **raws})
        # Kept by reference without a copy, or the stage after the evaluation writes a buffer.
        kept = p == 0 and len(raws) == 1 and not clips and self.hold_outputs
        if self.known and quantity != "data":
            kept = False  # what is known says it with the state of then, which is gone
        return self._earlier.setdefault(symbol, raws if kept else {symbol: 1.0})

    def _known_prediction(self, symbol: Prediction, segment: int) -> Terms:
        """`prediction` where the data are known."""
        k, quantity = symbol.evaluation, symbol.quantity
        if k == segment - 1:
            p, q = self.parametrisation.from_data(quantity, self.evaluations[k].time)
            return _nonzero({self.evaluations[k].x: p, KNOWN: q})
        self._where_known = False
        plain = self.prediction(symbol, segment)
        self._where_known = True
        return plain if symbol in plain else {KNOWN: 1.0}

    def clipped(self, segment: int) -> Terms:
        """The data prediction before clipping."""
        e = self.evaluations[segment - 1]
        p, q = self.conversion("data", e.time)
        return _nonzero({e.x: p, **self.raws(segment - 1, q)})

    def raws(self, k: int, factor: float, unconditional: bool = False, output: int = 0) -> Terms:
        """The network's prediction at evaluation k: one output, or the guided sum of two."""
        if output:
            return {Raw(k, output): factor}
        weights = self.weights(self.evaluations[k].time)
        self.branches = max(self.branches, len(weights))
        if unconditional and len(weights) > 1:
            return {Raw(k, 1): factor}
        return {Raw(k, branch): factor * w for branch, w in enumerate(weights)}

    def conversion(self, quantity: str, time: float) -> tuple[float, float]:
        """`Parametrisation.conversion`, computed once: many stages read one prediction."""
        key = quantity, time
        if key not in self._conversions:
            self._conversions[key] = self.parametrisation.conversion(quantity, time)
        return self._conversions[key]

    def network_input(self, k: int) -> Atom:
        """What the network reads: the state itself, unless it must be scaled or cast."""
        return NetworkInput(k) if k in self.scales else self.evaluations[k].x


def _nonzero(terms: Terms) -> Terms:
    return terms if all(terms.values()) else {atom: c for atom, c in terms.items() if c != 0}


def _ends(sums: _Expansion, stages: list[Unplaced]) -> dict[Atom, int]:
    """For each value, the first stage whose outputs may take its place.

    The kernels read all inputs of an element before they write it, so the last reader itself may
    write there. The network reads its input after stage s: it is free from stage s + 1 on.
    """
    ends: dict[Atom, int] = {}
    for s, stage in enumerate(stages):
        ends.update(dict.fromkeys(stage.reads, s))
        if s < len(sums.evaluations):
            ends[sums.network_input(s)] = s + 1
            if s in sums.reads_state:
                ends[sums.evaluations[s].x] = s + 1
    return ends
