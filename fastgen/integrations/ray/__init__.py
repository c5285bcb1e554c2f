"""Ray: sets of samples by a pool of actors, fed by Ray Data; and replicas of a server.

Needs ``pip install 'fastgen-torch[ray]'``.
"""

from fastgen.integrations.ray.data import dataset, generate
from fastgen.integrations.ray.serving import deployment

__all__ = ["dataset", "deployment", "generate"]
