"""k-diffusion's functions and classes, every step one kernel call.

`from fastgen.integrations import k_diffusion as K` instead of `import k_diffusion as K`;
docs/from/k_diffusion.md says what is identical and what differs.
"""

from fastgen.integrations.k_diffusion import external, sampling, utils

__all__ = ["external", "sampling", "utils"]
