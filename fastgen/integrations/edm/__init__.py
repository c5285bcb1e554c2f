"""EDM's samplers under their own names (Karras et al. 2022, arXiv 2206.00364)."""

from fastgen.integrations.edm.sampling import ablation_sampler, edm_sampler

__all__ = ["ablation_sampler", "edm_sampler"]
