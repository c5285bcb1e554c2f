"""Sets of samples on Ray: a pool of actors with a sampler each, fed by Ray Data.

Needs ``pip install 'fastgen-torch[ray]'``.
"""

from fastgen.integrations.ray.data import dataset, generate

__all__ = ["dataset", "generate"]
