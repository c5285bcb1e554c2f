"""EDM's samplers under their own names (Karras et al. 2022, arXiv 2206.00364), and EDM2's."""

from fastgen.integrations.common.names import Refused
from fastgen.integrations.edm.generators import StackedRandomGenerator, parse_int_list
from fastgen.integrations.edm.guided import edm2_sampler
from fastgen.integrations.edm.sampling import ablation_sampler, edm_sampler

__all__ = [
    "StackedRandomGenerator",
    "ablation_sampler",
    "edm2_sampler",
    "edm_sampler",
    "parse_int_list",
]

__getattr__ = Refused(
    __name__,
    {
        "main": "it is the command line of EDM's generate.py; keep that file and change its import",
        "generate_images": "it is EDM2's loop; give it sampler_fn=edm2_sampler",
    },
)
