"""Noise schedules: alpha(t) and sigma(t) of x_t = alpha x_0 + sigma eps, t = 1 noise, 0 data."""

from fastgen.schedules.base import Schedule, from_config, names, register
from fastgen.schedules.discrete import DiscreteVP
from fastgen.schedules.flow import Rectified, dynamic_shift
from fastgen.schedules.user import UserSchedule
from fastgen.schedules.ve import EDM, VE
from fastgen.schedules.vp import CosineVP, LinearVP, SubVP, Trig

__all__ = [
    "EDM",
    "VE",
    "CosineVP",
    "DiscreteVP",
    "LinearVP",
    "Rectified",
    "Schedule",
    "SubVP",
    "Trig",
    "UserSchedule",
    "dynamic_shift",
    "from_config",
    "names",
    "register",
]
