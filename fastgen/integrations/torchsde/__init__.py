"""torchsde's `sdeint` and Brownian motions, on fastgen's solvers and Brownian tree.

    from fastgen.integrations import torchsde        # instead of: import torchsde

docs/from/torchsde.md says what is identical and what differs.
"""

from fastgen.integrations.torchsde.motions import BrownianInterval, BrownianPath, BrownianTree
from fastgen.integrations.torchsde.solve import sdeint, sdeint_adjoint

__all__ = ["BrownianInterval", "BrownianPath", "BrownianTree", "sdeint", "sdeint_adjoint"]
