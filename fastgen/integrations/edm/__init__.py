"""EDM's samplers under their own names (Karras et al. 2022, arXiv 2206.00364), and EDM2's."""

from fastgen.integrations.edm.guided import edm2_sampler
from fastgen.integrations.edm.sampling import ablation_sampler, edm_sampler

__all__ = ["ablation_sampler", "edm2_sampler", "edm_sampler"]
