"""Error norms of the caller's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.kernels.runge_kutta.contract import Control, Workspace
from fastgen.kernels.runge_kutta.reference import ReferenceOperations, relative_error
from fastgen.ode.problem import StateLayout

Norm = Callable[[Any], Any]


class NormedOperations(ReferenceOperations):
    """The steps' operations in plain PyTorch, with a function for the norm of relative errors."""

    def __init__(self, workspace: Workspace, state: StateLayout, norm: Norm) -> None:
        super().__init__(workspace)
        self.state, self.norm = state, norm

    def _norm(self, x: Tensor, z: Tensor) -> Tensor:
        """|norm(x / (atol + rtol max(|y|, |z|)))|, float64 [R].

        Raises:
            ValueError: for a value of another shape than one number for each sample.
        """
        control = self.w.control[:, : self.rows]
        y = self.w.y[: self.rows]
        ratio = relative_error(x, y, z, control[Control.RTOL], control[Control.ATOL])
        found = torch.as_tensor(self.norm(self.state.tree(ratio)), device=y.device).detach()
        wanted = () if self.state.joint else (self.rows,)
        if found.shape != wanted:
            raise ValueError(
                f"norm: expected {'one number' if self.state.joint else 'one for each sample'}, a "
                f"tensor of shape {wanted}, got {tuple(found.shape)}"
            )
        return found.double().abs().reshape(self.rows)
