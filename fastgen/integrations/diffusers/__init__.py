"""diffusers' schedulers under their own names, every step one fused kernel call.

Change ``from diffusers import DDIMScheduler`` to
``from fastgen.integrations.diffusers import DDIMScheduler``, or call `accelerate` on a pipeline.
"""

from fastgen.integrations.diffusers.accelerate import accelerate
from fastgen.integrations.diffusers.ddpm import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
)
from fastgen.integrations.diffusers.exponential import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
)
from fastgen.integrations.diffusers.few_step import (
    LCMScheduler,
    TCDScheduler,
)
from fastgen.integrations.diffusers.flow import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from fastgen.integrations.diffusers.pndm import (
    IPNDMScheduler,
    PNDMScheduler,
)
from fastgen.integrations.diffusers.score_sde import (
    ScoreSdeVeScheduler,
    ScoreSdeVpScheduler,
)
from fastgen.integrations.diffusers.sigmas import (
    CMStochasticIterativeScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
)
from fastgen.integrations.diffusers.two_calls import (
    DPMSolverSDEScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
)
from fastgen.integrations.diffusers.unipc import (
    SASolverScheduler,
    UniPCMultistepScheduler,
)

__all__ = [
    "CMStochasticIterativeScheduler",
    "DDIMInverseScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "ScoreSdeVeScheduler",
    "ScoreSdeVpScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
    "accelerate",
]
