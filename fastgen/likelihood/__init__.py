"""Log-densities: of samples by the flow, by the variational bound, and of a solver's steps."""

from fastgen.likelihood.flow import log_likelihood
from fastgen.likelihood.transitions import (
    log_ratio,
    sampled_log_probability,
    trajectory_log_probability,
    transition_divergence,
)
from fastgen.likelihood.variational_bound import variational_bound

__all__ = [
    "log_likelihood",
    "log_ratio",
    "sampled_log_probability",
    "trajectory_log_probability",
    "transition_divergence",
    "variational_bound",
]
