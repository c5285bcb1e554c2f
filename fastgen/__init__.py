"""fastgen: fast, exact samplers for score, diffusion and flow-matching models.

`import fastgen` loads nothing but this page: each room and each name is imported when it is first
used, so that a program pays for what it calls.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastgen.common.version import VERSION

if TYPE_CHECKING:
    from fastgen import (
        control,
        couplings,
        datasets,
        fitting,
        generation,
        kernels,
        networks,
        observations,
        plots,
        rules,
        schedules,
        solvers,
        timesteps,
        training,
    )
    from fastgen.control import best_of, posterior, steer
    from fastgen.couplings import wasserstein
    from fastgen.fitting import race, tune
    from fastgen.generation import generate
    from fastgen.likelihood import (
        log_likelihood,
        log_ratio,
        sampled_log_probability,
        trajectory_log_probability,
        transition_divergence,
    )
    from fastgen.likelihood.variational_bound import variational_bound
    from fastgen.model import Guidance, Model
    from fastgen.noise import BrownianPath, interpolate, randn
    from fastgen.noise.brownian import brownian
    from fastgen.ode import odeint
    from fastgen.plans import Plan
    from fastgen.sampling import Inversion, Parallel, Sampler, Step, flow_edit, invert, rf_inversion
    from fastgen.sampling.sample import sample
    from fastgen.sde import sdeint
    from fastgen.solvers import plan
    from fastgen.training.latent import Latent

__all__ = [
    "BrownianPath",
    "Guidance",
    "Inversion",
    "Latent",
    "Model",
    "Parallel",
    "Plan",
    "Sampler",
    "Step",
    "best_of",
    "brownian",
    "control",
    "couplings",
    "datasets",
    "fitting",
    "flow_edit",
    "generate",
    "generation",
    "interpolate",
    "invert",
    "kernels",
    "log_likelihood",
    "log_ratio",
    "networks",
    "observations",
    "odeint",
    "plan",
    "plots",
    "posterior",
    "race",
    "randn",
    "rf_inversion",
    "rules",
    "sample",
    "sampled_log_probability",
    "schedules",
    "sdeint",
    "solvers",
    "steer",
    "timesteps",
    "training",
    "trajectory_log_probability",
    "transition_divergence",
    "tune",
    "variational_bound",
    "wasserstein",
]
__version__ = VERSION

_ROOMS = {
    "common",
    "control",
    "couplings",
    "datasets",
    "fitting",
    "generation",
    "kernels",
    "likelihood",
    "model",
    "networks",
    "noise",
    "observations",
    "ode",
    "plans",
    "plots",
    "rules",
    "sampling",
    "schedules",
    "sde",
    "solvers",
    "timesteps",
    "training",
}
# Where each name is. A function may have its module's name: there the module is given.
_MODULE_OF = {
    "BrownianPath": "noise",
    "Guidance": "model",
    "Inversion": "sampling",
    "Latent": "training.latent",
    "Model": "model",
    "Parallel": "sampling",
    "Plan": "plans",
    "Sampler": "sampling",
    "Step": "sampling",
    "best_of": "control",
    "brownian": "noise.brownian",
    "flow_edit": "sampling",
    "generate": "generation",
    "interpolate": "noise",
    "invert": "sampling",
    "log_likelihood": "likelihood",
    "log_ratio": "likelihood",
    "odeint": "ode",
    "plan": "solvers",
    "posterior": "control",
    "race": "fitting",
    "randn": "noise",
    "rf_inversion": "sampling",
    "sample": "sampling.sample",
    "sampled_log_probability": "likelihood",
    "sdeint": "sde",
    "steer": "control",
    "trajectory_log_probability": "likelihood",
    "transition_divergence": "likelihood",
    "tune": "fitting",
    "variational_bound": "likelihood.variational_bound",
    "wasserstein": "couplings",
}


def __getattr__(name: str) -> Any:
    """Import a room, or a name of one, at its first use (PEP 562)."""
    if name in _MODULE_OF:
        value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        return value
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
