"""`ModelWrapper`, from which models are derived, and small functions."""

from fastgen.integrations.common.names import Refused
from fastgen.integrations.flow_matching.common import DISCRETE
from fastgen.integrations.flow_matching.utils.model_wrapper import ModelWrapper
from fastgen.integrations.flow_matching.utils.utils import (
    expand_tensor_like,
    gradient,
    unsqueeze_to_match,
)

__all__ = [
    "ModelWrapper",
    "expand_tensor_like",
    "gradient",
    "unsqueeze_to_match",
]

__getattr__ = Refused(__name__, {"categorical": f"{DISCRETE}; it is torch.multinomial"})
