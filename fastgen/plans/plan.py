"""The plan: what a solver does on one schedule and time grid, as a list of instructions."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastgen.schedules as schedules
from fastgen.common.display import Unquoted, displayed
from fastgen.common.hub import PLAN, PretrainedError, folder_of
from fastgen.model.parametrisation import Parametrisation
from fastgen.plans.checks import check_instructions
from fastgen.plans.forms import (
    Computed,
    Evaluate,
    Form,
    Instruction,
    Let,
    Normal,
    Prediction,
    State,
    Symbol,
    Value,
    name,
)
from fastgen.plans.increments import SAME_TIME, follow_path
from fastgen.plans.json import (
    REMEDY,
    from_records,
    function_name,
    items,
    keys,
    number,
    parse,
    to_records,
    whole,
    wrong,
)
from fastgen.plans.lowering import lower
from fastgen.plans.program import Program
from fastgen.schedules import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MOST_EVALUATIONS = 100_000  # of a plan in a file
_KEYS = (
    "fastgen_plan",
    "solver",
    "options",
    "schedule",
    "times",
    "clip",
    "program",
    "result",
)


@displayed
class Canonical(NamedTuple):
    """Every evaluation point and the result in terms of the initial state and the evaluations.

    Row k < nfe is the k-th evaluation point, the last row the result: a [nfe + 1] multiplies
    the initial state, b [nfe + 1, nfe] the predictions, c [nfe + 1, draws] the noises.
    ``quantities[j]`` says what b[:, j] multiplies.
    """

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    quantities: tuple[str, ...]
    times: np.ndarray


@displayed
@dataclass(frozen=True, eq=False)
class Plan:
    """A solver on a schedule and a time grid: what to evaluate, where, and the sums.

    options: the solver's own; times: the decreasing times of the grid, [steps + 1]; instructions:
    in the order in which they are carried out; result: the register that is returned; clip: bounds
    of every data prediction; note: how the plan was chosen or fitted, which `print` shows and files
    keep. Nothing of it can be written to: equal calls of `fastgen.plan` may return one plan.

    Raises:
        ValueError: naming an instruction that cannot be carried out at its place.
    """

    solver: str
    options: Mapping[str, Any]
    schedule: Schedule
    times: np.ndarray
    instructions: tuple[Instruction, ...]
    result: Value
    clip: tuple[float, float] | None = None
    note: str = ""
    evaluations: tuple[Evaluate, ...] = field(init=False)

    def __post_init__(self) -> None:
        check_instructions(self.instructions, self.result)
        found = tuple(i for i in self.instructions if isinstance(i, Evaluate))
        object.__setattr__(self, "evaluations", found)
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        times = np.array(self.times)
        times.flags.writeable = False
        object.__setattr__(self, "times", times)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "options": dict(self.options)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def nfe(self) -> int:
        """Number of network evaluations."""
        return len(self.evaluations)

    @property
    def steps(self) -> int:
        """Number of intervals of the time grid."""
        return len(self.times) - 1

    @property
    def states(self) -> tuple[State, ...]:
        """The solver's states after each step, in order."""
        return tuple(i for i in self.instructions if isinstance(i, State))

    @property
    def draws(self) -> int:
        """Number of fresh noises."""
        computed = {s for f in self._forms() for s in f.terms if isinstance(s, Computed)}
        return len(self._normals()) + len(computed)

    def _forms(self) -> list[Form]:
        return [i.form for i in self.instructions if isinstance(i, Let)]

    def _normals(self) -> set[Normal]:
        return {s for form in self._forms() for s in form.terms if isinstance(s, Normal)}

    def canonical(self) -> Canonical:
        """The expanded, non-stationary form (Shaul et al. 2024, arXiv 2403.01329).

        Raises:
            ValueError: if one evaluation is used as several quantities (those forms are not
                combinations of one output each), or the plan clips.
        """
        if self.clip is not None:
            raise ValueError("canonical(): a plan that clips the data prediction is not linear")
        if any(isinstance(s, Computed) for f in self._forms() for s in f.terms):
            raise ValueError("canonical(): coefficients of this plan depend on the data")
        quantities: dict[int, str] = {}
        for form in self._forms():
            for s in form.terms:
                if (
                    isinstance(s, Prediction)
                    and quantities.setdefault(s.evaluation, s.quantity) != s.quantity
                ):
                    raise ValueError(
                        f"canonical(): evaluation {s.evaluation} enters as {s.quantity} and as "
                        f"{quantities[s.evaluation]}"
                    )
        values: dict[Symbol, Form] = {Value(0): Form({Value(0): 1.0})}
        for i in self.instructions:
            if isinstance(i, Let):
                values[i.value] = sum(
                    (c * values.get(s, Form({s: 1.0})) for s, c in i.form.terms.items()), Form({})
                )
        draws = sorted(self._normals())
        rows = [values[e.x] for e in self.evaluations] + [values[self.result]]
        kinds = tuple(quantities.get(k, "data") for k in range(self.nfe))
        columns: list[Symbol] = [Prediction(k, q) for k, q in enumerate(kinds)]

        def matrix(symbols: list[Symbol]) -> np.ndarray:
            return np.array([[row.terms.get(s, 0.0) for s in symbols] for row in rows])

        return Canonical(
            a=matrix([Value(0)])[:, 0],
            b=matrix(columns),
            c=matrix(list(draws)).reshape(len(rows), len(draws)),
            quantities=kinds,
            times=np.array([e.time for e in self.evaluations]),
        )

    def bytes_per_element(
        self, state_bytes: int = 4, network_bytes: int = 4, predicts: str = "data"
    ) -> int:
        """Fewest bytes that all stages together move per element of the state.

        Args:
            state_bytes: size of the state's dtype (float32: 4).
            network_bytes: size of the network's dtype, in and out.
            predicts: what the network predicts. Conversions cost nothing, but a history of raw
                outputs need not be written again.
        """
        program = self.lower(
            Parametrisation(self.schedule, predicts), cast=network_bytes != state_bytes
        )
        return program.bytes_per_element(state_bytes, network_bytes)

    def lower(
        self, parametrisation: Parametrisation, *, brownian: bool = False, **options: Any
    ) -> Program:
        """The plan's stages for one kind of network (see `fastgen.plans.lowering.lower`).

        brownian: noises over intervals are increments of a path, given to the stages as inputs.
        """
        listed = self.instructions
        if brownian:
            listed = follow_path(listed, float(self.times[0]))
        return lower(listed, self.result, parametrisation, clip=self.clip, **options)

    def plot(self, ax: Axes | None = None, *, over: str = "time") -> Figure | SubFigure:
        """Draw where the network is evaluated, and below it which history every state reads.

        The table has a row for each state that is written and a column for all that is read:
        states, predictions and noises, with their factors. A multistep solver has as many bands of
        predictions as steps that it looks back; one step of a single-step solver is a block.

        Args:
            ax: the axes whose place is taken; None makes a figure.
            over: height of the evaluations: "time", or "log_snr".

        Returns:
            The figure.

        Raises:
            ImportError: without matplotlib.

        Example:
            >>> plan = fastgen.plan("dpmpp_3m", fastgen.schedules.CosineVP(), 10)
            >>> figure = plan.plot(over="log_snr")
        """
        from fastgen.plans.drawing import draw_plan

        return draw_plan(self, ax, over)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"solver": self.solver}
        facts |= {"options": self.options} if self.options else {}
        facts |= {"schedule": self.schedule, "steps": self.steps, "nfe": self.nfe}
        facts |= {"noises": self.draws} if self.draws else {}
        facts["times"] = Unquoted(f"{self.times[0]:.6g} to {self.times[-1]:.6g}")
        facts |= {} if self.clip is None else {"clip": self.clip}
        return facts | ({"note": self.note} if self.note else {})

    def _more(self) -> str:
        return str(self)

    def __str__(self) -> str:
        options = "".join(f", {k}={v!r}" for k, v in self.options.items())
        head = (
            f"{self.solver}{options} on {self.schedule!r}: {self.steps} steps, "
            f"{self.nfe} evaluations, {self.draws} noises"
        )
        notes = [self.note] if self.note else []
        lines = [head, *notes, f"{'t':>10} {'alpha':>10} {'sigma':>10}  program"]
        count = 0
        for i in self.instructions:
            if isinstance(i, Evaluate):
                alpha, sigma = self.schedule.alpha(i.time), self.schedule.sigma(i.time)
                until = "" if i.until is None else f" until t={i.until:.6f}"
                call = f"evaluation {count} at {name(i.x)}{until}"
                lines.append(f"{i.time:10.6f} {alpha:10.6f} {sigma:10.6f}  {call}")
                count += 1
            elif isinstance(i, Let):
                lines.append(f"{'':34}{name(i.value)} = {i.form!r}")
        lines.append(f"{'':34}return {name(self.result)}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The plan as JSON; floats survive exactly, options that are functions by their names.

        The instructions have what such functions gave, so the plan that is read runs the same.
        """
        note = {"note": self.note} if self.note else {}
        return json.dumps(
            {
                "fastgen_plan": 1,
                "solver": self.solver,
                "options": dict(self.options),
                "schedule": self.schedule.to_config(),
                "times": self.times.tolist(),
                "clip": self.clip,
                "program": to_records(self.instructions),  # as files of version 1 call them
                "result": self.result.index,
                **note,
            },
            default=function_name,
        )

    @staticmethod
    def from_json(text: str | bytes) -> Plan:
        """Inverse of `to_json`, in time that grows with the text alone: 1 MB within a second.

        Plans of more than 100,000 evaluations are not read.

        Raises:
            ValueError: naming the place in the text that is not as `to_json` writes it, or cannot
                be carried out.
        """
        try:
            return _from_record(parse(text))
        except ValueError as error:
            raise ValueError(f"text: {error}") from error

    @staticmethod
    def from_pretrained(folder: str | os.PathLike[str], **hub: Any) -> Plan:
        """The plan that `Model.save_pretrained` stored with a model.

        Args:
            folder: a folder, or ``[hf:]ORG/NAME[@REVISION]``.
            **hub: revision, token, cache_dir, local_files_only, force_download, as
                `Model.from_pretrained` has them.

        Raises:
            PretrainedError: a ValueError that names the file, if there is none or it is damaged.
        """
        path = folder_of(folder, **hub) / PLAN
        try:
            return Plan.from_json(path.read_bytes())
        except FileNotFoundError:
            raise PretrainedError(
                f"{path}: no such file; make one with fastgen.plan(solver, model.schedule, steps)"
            ) from None
        except ValueError as error:
            raise PretrainedError(f"{path}: {error}") from error


def _from_record(record: Any) -> Plan:
    """The plan of a file's object."""
    version = record.get("fastgen_plan") if isinstance(record, dict) else None
    if type(version) is not int or version != 1:
        raise ValueError(f"expected a plan of version 1, got {reprlib.repr(record)}; {REMEDY}")
    record = {"note": "", **record}
    keys(record, "the plan", (*_KEYS, "note"))
    kinds = {"solver": "a name", "note": "text", "options": "an object", "schedule": "an object"}
    for key, kind in kinds.items():
        if not isinstance(record[key], dict if kind == "an object" else str):
            raise wrong(record[key], key, kind)
    times = [number(t, f"times[{k}]", 0, 1) for k, t in enumerate(items(record["times"], "times"))]
    rises = np.diff(times) > 0
    if len(times) < 2 or rises.any() != rises.all() or 0 in np.diff(times):
        raise wrong(times, "times", "at least two, each below the one before (or each above)")
    instructions = from_records(record["program"], "program")
    count = sum(isinstance(i, Evaluate) for i in instructions)
    if count > MOST_EVALUATIONS:
        raise ValueError(
            f"program: {count} evaluations, a file may have {MOST_EVALUATIONS}; make longer plans "
            "with fastgen.plan"
        )
    low, high = min(times) - SAME_TIME, max(times) + SAME_TIME
    for k, i in enumerate(instructions):
        if isinstance(i, State) and not low <= i.time <= high:
            raise wrong(i.time, f"program[{k}].time", "a time within those of the grid")
    clip = record["clip"]
    if clip is not None:
        pair = items(clip, "clip", (2,))
        clip = tuple(
            bound if bound in (-np.inf, np.inf) else number(bound, f"clip[{k}]")
            for k, bound in enumerate(pair)
        )
        if not clip[0] < clip[1]:
            raise wrong(record["clip"], "clip", "a low bound below a high one")
    try:
        schedule = schedules.from_config(record["schedule"])
    except Exception as error:  # parameters of any kind, for schedules of anyone
        raise ValueError(f"schedule: {error}") from error
    result = Value(whole(record["result"], "result"))
    try:
        return Plan(
            record["solver"],
            record["options"],
            schedule,
            np.array(times),
            instructions,
            result,
            clip,
            record["note"],
        )
    except ValueError as error:
        raise ValueError(f"program: {error}; {REMEDY}") from error
