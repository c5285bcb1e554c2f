"""fastgen: fast, exact samplers for score, diffusion and flow-matching models."""

from fastgen import kernels, networks, schedules, solvers, timesteps, training
from fastgen.guidance import Guidance
from fastgen.inversion import Inversion, invert
from fastgen.log_probability import sampled_log_probability, trajectory_log_probability
from fastgen.model import Model
from fastgen.noise import brownian, randn
from fastgen.plans import Plan
from fastgen.sampling import Sampler, Step, sample
from fastgen.solvers import plan

__all__ = [
    "Guidance",
    "Inversion",
    "Model",
    "Plan",
    "Sampler",
    "Step",
    "brownian",
    "invert",
    "kernels",
    "networks",
    "plan",
    "randn",
    "sample",
    "sampled_log_probability",
    "schedules",
    "solvers",
    "timesteps",
    "training",
    "trajectory_log_probability",
]
__version__ = "0.1.0"
