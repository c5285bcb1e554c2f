"""Schedulers alpha(t), sigma(t) of x_t = sigma x_0 + alpha x_1, and models moved between them."""

from fastgen.integrations.flow_matching.path.scheduler.schedulers import (
    CondOTScheduler,
    ConvexScheduler,
    CosineScheduler,
    LinearVPScheduler,
    PolynomialConvexScheduler,
    Scheduler,
    SchedulerOutput,
    VPScheduler,
)
from fastgen.integrations.flow_matching.path.scheduler.transform import ScheduleTransformedModel

__all__ = [
    "CondOTScheduler",
    "ConvexScheduler",
    "CosineScheduler",
    "LinearVPScheduler",
    "PolynomialConvexScheduler",
    "ScheduleTransformedModel",
    "Scheduler",
    "SchedulerOutput",
    "VPScheduler",
]
