"""Log-densities: of samples by the flow, by the variational bound, and of a solver's steps."""

from fastgen.likelihood.flow import log_likelihood
from fastgen.likelihood.transitions import sampled_log_probability, trajectory_log_probability
from fastgen.likelihood.variational_bound import variational_bound

__all__ = [
    "log_likelihood",
    "sampled_log_probability",
    "trajectory_log_probability",
    "variational_bound",
]
