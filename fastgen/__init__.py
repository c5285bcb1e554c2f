"""fastgen: fast, exact samplers for score, diffusion and flow-matching models."""

from fastgen import couplings, kernels, networks, schedules, solvers, timesteps, training
from fastgen.couplings import wasserstein
from fastgen.likelihood import (
    log_likelihood,
    sampled_log_probability,
    trajectory_log_probability,
    variational_bound,
)
from fastgen.model import Guidance, Model
from fastgen.noise import BrownianPath, brownian, randn
from fastgen.ode import odeint
from fastgen.plans import Plan
from fastgen.sampling import Inversion, Sampler, Step, invert, sample
from fastgen.sde import sdeint
from fastgen.solvers import plan
from fastgen.training.latent import Latent

__all__ = [
    "BrownianPath",
    "Guidance",
    "Inversion",
    "Latent",
    "Model",
    "Plan",
    "Sampler",
    "Step",
    "brownian",
    "couplings",
    "invert",
    "kernels",
    "log_likelihood",
    "networks",
    "odeint",
    "plan",
    "randn",
    "sample",
    "sampled_log_probability",
    "schedules",
    "sdeint",
    "solvers",
    "timesteps",
    "training",
    "trajectory_log_probability",
    "variational_bound",
    "wasserstein",
]
__version__ = "0.1.0"
