"""How networks are told the time, for one time and for a batch of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.model.parametrisation import Time
from fastgen.schedules import Schedule

# From (schedule, internal time t, the network's own time of the data).
TIME_INPUTS: dict[str, Callable[[Any, Any, int], Any]] = {
    "unit": lambda schedule, t, data_at: 1.0 - t if data_at == 1 else t,
    "index": lambda schedule, t, data_at: schedule.index_of_time(t),
    "sigma": lambda schedule, t, data_at: schedule.ratio(t),
    "log_snr": lambda schedule, t, data_at: schedule.log_snr(t),
    "edm": lambda schedule, t, data_at: -schedule.half_log_snr(t) / 4,
}


def network_time(
    kind: str | Callable[[float], float], schedule: Schedule, t: Time, data_at: int
) -> Time:
    """What a network is fed at internal time t: a float, or float64 times [A].

    Args:
        kind: one of ``TIME_INPUTS``, or a function of one time.
        schedule: the model's.
        t: a float, or float64 times [A].
        data_at: the network's own time of the data, 0 or 1.
    """
    if callable(kind):
        if isinstance(t, Tensor):
            told = [float(kind(s)) for s in t.tolist()]
            return torch.tensor(told, dtype=torch.float64, device="cpu").to(t.device)
        return float(kind(t))
    told_time: Time = TIME_INPUTS[kind](schedule, t, data_at)
    return told_time
