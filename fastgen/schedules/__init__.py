"""Noise schedules: alpha(t) and sigma(t) of x_t = alpha x_0 + sigma eps, t = 1 noise, 0 data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastgen.schedules.base import Schedule, from_config, names, register
from fastgen.schedules.discrete import DiscreteVP
from fastgen.schedules.flow import Rectified, dynamic_shift
from fastgen.schedules.ve import EDM, VE
from fastgen.schedules.vp import CosineVP, LinearVP, SubVP, Trig

if TYPE_CHECKING:
    from fastgen.schedules.user import UserSchedule

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


def __getattr__(name: str) -> Any:
    """Import `UserSchedule` at its first use: it alone computes with torch."""
    if name != "UserSchedule":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fastgen.schedules.user import UserSchedule

    globals()[name] = UserSchedule
    return UserSchedule
