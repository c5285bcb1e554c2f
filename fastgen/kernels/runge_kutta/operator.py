"""The choice of an implementation of error-controlled Runge-Kutta steps."""

from fastgen.kernels import dispatch
from fastgen.kernels.runge_kutta.contract import FusedOperations, Operations, Workspace


def operations(workspace: Workspace, backend: str | None = None) -> Operations:
    """The implementation for the workspace's device; see `fastgen.kernels.dispatch.choose`."""
    made: Operations = dispatch.find("runge_kutta", workspace.y.device, backend)(workspace)
    return made


def fused_operations(workspace: Workspace, backend: str | None = None) -> FusedOperations | None:
    """The same with one call between two evaluations, where the backend has that: in C++."""
    found = dispatch.load("runge_kutta_fused", dispatch.choose(workspace.y.device, backend))
    return found and found(workspace)
