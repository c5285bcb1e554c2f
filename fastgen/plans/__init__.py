"""Plans: solvers as linear programs, from symbolic values to kernel stages."""

from fastgen.plans.builder import Builder, Predictions
from fastgen.plans.forms import Form, MissingLimitError
from fastgen.plans.plan import Canonical, Plan
from fastgen.plans.program import Program, Stage

__all__ = [
    "Builder",
    "Canonical",
    "Form",
    "MissingLimitError",
    "Plan",
    "Predictions",
    "Program",
    "Stage",
]
