"""The choice of an implementation of error-controlled Runge-Kutta steps."""

from collections.abc import Callable

import torch

from fastgen.kernels import dispatch
from fastgen.kernels.runge_kutta.contract import FusedOperations, Operations, Workspace


def operations(workspace: Workspace, backend: str | None = None) -> Operations:
    """The implementation for the workspace's device; see `fastgen.kernels.dispatch.choose`."""
    made: Operations = dispatch.find("runge_kutta", workspace.y.device, backend)(workspace)
    return made


def fused_operations(
    device: torch.device, backend: str | None = None
) -> Callable[[Workspace], FusedOperations] | None:
    """What makes the same with one call between two evaluations, where the backend has that."""
    return dispatch.load("runge_kutta_fused", dispatch.choose(device, backend))
