"""diffusers' schedulers under their own names, every step one fused kernel call.

Change ``from diffusers import DDIMScheduler`` to
``from fastgen.integrations.diffusers import DDIMScheduler``, or call `accelerate` on a pipeline.
"""

from diffusers.schedulers import AysSchedules, KarrasDiffusionSchedulers, SchedulerMixin

from fastgen.integrations.common.names import Refused
from fastgen.integrations.diffusers.accelerate import accelerate
from fastgen.integrations.diffusers.cogvideox import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
)
from fastgen.integrations.diffusers.cosine import CosineDPMSolverMultistepScheduler
from fastgen.integrations.diffusers.ddpm import (
    DDIMParallelScheduler,
    DDIMScheduler,
    DDPMParallelScheduler,
    DDPMScheduler,
)
from fastgen.integrations.diffusers.exponential import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
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
from fastgen.integrations.diffusers.flow_variants import (
    FlowMapEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    LTXEulerAncestralRFScheduler,
    MiniMaxH3Scheduler,
    SCMScheduler,
)
from fastgen.integrations.diffusers.inverse import (
    DDIMInverseScheduler,
    DPMSolverMultistepInverseScheduler,
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
from fastgen.integrations.diffusers.singlestep import DPMSolverSinglestepScheduler
from fastgen.integrations.diffusers.two_calls import (
    DPMSolverSDEScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
)
from fastgen.integrations.diffusers.unclip import (
    ConsistencyDecoderScheduler,
    DDPMWuerstchenScheduler,
    RePaintScheduler,
    UnCLIPScheduler,
)
from fastgen.integrations.diffusers.unipc import (
    SASolverScheduler,
    UniPCMultistepScheduler,
)

DISCRETE = "its states are tokens, and steps here are of numbers; take diffusers' own"
STAGES = (
    "its steps depend on its pipeline's stages and tables besides the schedule; take diffusers' own"
)
__getattr__ = Refused(
    __name__,
    {
        "AmusedScheduler": DISCRETE,
        "BlockRefinementScheduler": DISCRETE,
        "BlockRefinementSchedulerOutput": DISCRETE,
        "DiscreteDDIMScheduler": DISCRETE,
        "DiscreteDDIMSchedulerOutput": DISCRETE,
        "EntropyBoundScheduler": DISCRETE,
        "EntropyBoundSchedulerOutput": DISCRETE,
        "HeliosDMDScheduler": STAGES,
        "HeliosScheduler": STAGES,
        "KarrasVeScheduler": "deprecated in diffusers; HeunDiscreteScheduler with s_churn is its "
        "method, EulerDiscreteScheduler the same without correction",
        "PiflowScheduler": "its network predicts a policy, which is integrated inside of a step; "
        "take diffusers' own",
        "RFD4ProteinaScheduler": STAGES,
        "VQDiffusionScheduler": DISCRETE,
    },
)

__all__ = [
    "AysSchedules",
    "CMStochasticIterativeScheduler",
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "ConsistencyDecoderScheduler",
    "CosineDPMSolverMultistepScheduler",
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DDPMWuerstchenScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMapEulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KarrasDiffusionSchedulers",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "LTXEulerAncestralRFScheduler",
    "MiniMaxH3Scheduler",
    "PNDMScheduler",
    "RePaintScheduler",
    "SASolverScheduler",
    "SCMScheduler",
    "SchedulerMixin",
    "ScoreSdeVeScheduler",
    "ScoreSdeVpScheduler",
    "TCDScheduler",
    "UnCLIPScheduler",
    "UniPCMultistepScheduler",
    "accelerate",
]
