"""fastgen: fast, exact samplers for score, diffusion and flow-matching models."""

from fastgen import kernels, schedules, solvers, timesteps
from fastgen.guidance import Guidance
from fastgen.model import Model
from fastgen.noise import randn
from fastgen.plans import Plan
from fastgen.sampling import Sampler, Step, sample
from fastgen.solvers import plan

__all__ = [
    "Guidance",
    "Model",
    "Plan",
    "Sampler",
    "Step",
    "kernels",
    "plan",
    "randn",
    "sample",
    "schedules",
    "solvers",
    "timesteps",
]
__version__ = "0.1.0"
