"""torchcfm's flow matchers and plan samplers under their own names (Tong et al. 2024, 2302.00482).

The modules `conditional_flow_matching` and `optimal_transport` are named as there.
"""

from fastgen.integrations.torchcfm.conditional_flow_matching import (
    ConditionalFlowMatcher,
    ExactOptimalTransportConditionalFlowMatcher,
    SchrodingerBridgeConditionalFlowMatcher,
    TargetConditionalFlowMatcher,
    VariancePreservingConditionalFlowMatcher,
    pad_t_like_x,
)
from fastgen.integrations.torchcfm.optimal_transport import OTPlanSampler, wasserstein

__all__ = [
    "ConditionalFlowMatcher",
    "ExactOptimalTransportConditionalFlowMatcher",
    "OTPlanSampler",
    "SchrodingerBridgeConditionalFlowMatcher",
    "TargetConditionalFlowMatcher",
    "VariancePreservingConditionalFlowMatcher",
    "pad_t_like_x",
    "wasserstein",
]
