"""torchdiffeq's `odeint`, `odeint_adjoint` and `odeint_event` on fastgen's integrator."""

from fastgen.integrations.torchdiffeq.adjoint import odeint_adjoint
from fastgen.integrations.torchdiffeq.dense import odeint_dense
from fastgen.integrations.torchdiffeq.events import odeint_event
from fastgen.integrations.torchdiffeq.solve import odeint

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
