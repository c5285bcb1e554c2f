"""What a fit reports of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastgen.common.display import displayed
from fastgen.fitting.racing import Race
from fastgen.fitting.study import Errors
from fastgen.plans import Plan


@displayed
@dataclass(frozen=True)
class Tuning:
    """How a fit went, from `fastgen.tune` with ``report=True``.

    base: the plan that it began with. race: the race that chose it, or None. teacher: the teacher's
    own error at the times of the base, [nfe]. before, after: rms of every step of the least
    squares, on the training noise, of the base's coefficients and of the fitted ones from the same
    states, [nfe]. held_out: distances to the teacher's end on noise that was not fitted to, by
    stage: "base", "least squares" and the optimiser's name. losses: of the same, in the loss that
    the stages are compared by. chosen: the stage that was returned. consistency: see
    `Rows.consistency`. iterations: of the optimiser. seconds: by stage.
    """

    base: Plan
    race: Race | None
    teacher: Sequence[Errors]
    before: Sequence[float]
    after: Sequence[float]
    held_out: Mapping[str, Errors]
    losses: Mapping[str, float]
    chosen: str
    consistency: tuple[float, float]
    iterations: int
    seconds: Mapping[str, float]

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"chosen": self.chosen, "base": self.base.solver}
        facts |= {stage: str(error) for stage, error in self.held_out.items()}
        facts |= {"teacher": str(self.teacher[-1]), "consistency": self.consistency}
        spent = ", ".join(f"{stage} {s:.1f} s" for stage, s in self.seconds.items())
        return facts | {"iterations": self.iterations, "seconds": spent}

    def note(self) -> str:
        """A line for the plan: what it was made of, and what it reaches."""
        first, last = self.held_out["base"], self.held_out[self.chosen]
        constant, noise = self.consistency
        return (
            f"fitted by {self.chosen} from {self.base.solver}: held-out rms {last} to the teacher, "
            f"whose own error is {self.teacher[-1]}; {first} before; consistency to "
            f"{constant:.2g} (data), {noise:.2g} (noise)"
        )
