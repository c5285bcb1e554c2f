"""`Solver`, from which solvers are derived."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Solver(ABC, nn.Module):
    """Something with a method `sample`."""

    @abstractmethod
    def sample(self, x_0: Tensor) -> Tensor:
        """States at the end, from states x_0 at the start."""

    # A solver holds functions, not layers: it is shown by what it was made of.
    def _facts(self) -> dict[str, Any]:
        names = ("manifold", "velocity_model")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}
