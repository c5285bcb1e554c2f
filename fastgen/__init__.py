"""fastgen: fast, exact samplers for score, diffusion and flow-matching models."""

from fastgen import couplings, kernels, networks, schedules, solvers, timesteps, training
from fastgen.couplings import wasserstein
from fastgen.guidance import Guidance
from fastgen.integrate import odeint
from fastgen.inversion import Inversion, invert
from fastgen.latent import Latent
from fastgen.likelihood import log_likelihood
from fastgen.log_probability import sampled_log_probability, trajectory_log_probability
from fastgen.model import Model
from fastgen.noise import brownian, randn
from fastgen.observation import Step
from fastgen.plans import Plan
from fastgen.sampling import Sampler, sample
from fastgen.sde import BrownianPath, sdeint
from fastgen.solvers import plan
from fastgen.variational_bound import variational_bound

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
