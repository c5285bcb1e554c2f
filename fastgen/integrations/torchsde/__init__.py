"""torchsde's `sdeint` and Brownian motions, on fastgen's solvers and Brownian tree.

    from fastgen.integrations import torchsde        # instead of: import torchsde

docs/from/torchsde.md says what is identical and what differs.
"""

from fastgen.integrations.torchsde import settings, types
from fastgen.integrations.torchsde.adjoint import sdeint_adjoint
from fastgen.integrations.torchsde.equations import BaseSDE, SDEIto, SDEStratonovich
from fastgen.integrations.torchsde.motions import (
    BaseBrownian,
    BrownianInterval,
    BrownianPath,
    BrownianTree,
    ReverseBrownian,
    brownian_interval_like,
)
from fastgen.integrations.torchsde.solve import sdeint

__all__ = [
    "BaseBrownian",
    "BaseSDE",
    "BrownianInterval",
    "BrownianPath",
    "BrownianTree",
    "ReverseBrownian",
    "SDEIto",
    "SDEStratonovich",
    "brownian_interval_like",
    "sdeint",
    "sdeint_adjoint",
    "settings",
    "types",
]
