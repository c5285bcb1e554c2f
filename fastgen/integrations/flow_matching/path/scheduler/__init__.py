"""Schedulers alpha(t), sigma(t) of x_t = sigma x_0 + alpha x_1, and models moved between them."""

from fastgen.integrations.flow_matching.path.scheduler.schedule_transform import (
    ScheduleTransformedModel,
)
from fastgen.integrations.flow_matching.path.scheduler.scheduler import (
    CondOTScheduler,
    ConvexScheduler,
    CosineScheduler,
    LinearVPScheduler,
    PolynomialConvexScheduler,
    Scheduler,
    SchedulerOutput,
    VPScheduler,
)

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
