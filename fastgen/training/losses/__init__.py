"""Losses: one number per sample, weighted, then the mean."""

from fastgen.training.losses.consistency import Boundary, consistency
from fastgen.training.losses.denoising import WEIGHTINGS, annealed, denoising, min_snr, sigmoid
from fastgen.training.losses.evidence import (
    evidence_bound,
    latent_cross_entropy,
    score_prior_bound,
)
from fastgen.training.losses.score_matching import explicit, implicit, sliced
from fastgen.training.losses.variational import bits_per_dimension, hybrid
from fastgen.training.losses.velocities import (
    flow_matching,
    interval_ends,
    mean_flow,
    score_and_flow_matching,
    shortcut,
    variational_flow_matching,
)

__all__ = [
    "WEIGHTINGS",
    "Boundary",
    "annealed",
    "bits_per_dimension",
    "consistency",
    "denoising",
    "evidence_bound",
    "explicit",
    "flow_matching",
    "hybrid",
    "implicit",
    "interval_ends",
    "latent_cross_entropy",
    "mean_flow",
    "min_snr",
    "score_and_flow_matching",
    "score_prior_bound",
    "shortcut",
    "sigmoid",
    "sliced",
    "variational_flow_matching",
]
