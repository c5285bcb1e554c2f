"""diffusers' schedulers under their own names, every step one fused kernel call.

Change ``from diffusers import DDIMScheduler`` to
``from fastgen.integrations.diffusers import DDIMScheduler``, or call `accelerate` on a pipeline.
"""

from fastgen.integrations.diffusers.ddpm import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
)

__all__ = ["DDIMInverseScheduler", "DDIMScheduler", "DDPMScheduler"]
