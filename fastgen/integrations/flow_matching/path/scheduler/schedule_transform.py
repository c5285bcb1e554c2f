"""A velocity model trained on one scheduler, run on another."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastgen.integrations.common.tensors import append_axes
from fastgen.integrations.flow_matching.path.scheduler.scheduler import Scheduler, SchedulerOutput


class ScheduleTransformedModel(nn.Module):
    """The velocity on ``new_scheduler`` of a model trained on ``original_scheduler``.

    Paths of equal end points differ in scale and time only: with tau(t) the original time of the
    same alpha / sigma and s = |(alpha, sigma)_new(t)| / |(alpha, sigma)_original(tau)|,

        x_new(t) = s x(tau),   u_new(x, t) = (s' / s) x + s tau' u(x / s, tau).

    Lipman et al. 2024 (arXiv 2412.06264, sec. 4.6). Written with the norm and the angle of
    (alpha, sigma), which are finite where sigma or alpha is 0. Where alpha / sigma is below what
    the original process has (a VP process begins with some signal) its first time is taken.

    Args:
        velocity_model: called as velocity_model(x=, t=, **extras).
        original_scheduler: what it was trained on.
        new_scheduler: what it is to be run on.
    """

    def __init__(
        self, velocity_model: Any, original_scheduler: Scheduler, new_scheduler: Scheduler
    ) -> None:
        super().__init__()
        self.velocity_model = velocity_model
        self.original_scheduler, self.new_scheduler = original_scheduler, new_scheduler

    def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
        """u_new(x, t); x [B, ...], t without axes or [B]."""
        new = self.new_scheduler(t)
        tau = self.original_scheduler.snr_inverse(new.alpha_t / new.sigma_t)
        old = self.original_scheduler(tau)
        d_tau = _turning(new) / _turning(old)
        norm, old_norm = _norm(new), _norm(old)
        scale = norm / old_norm
        growth = _growth(new) - _growth(old) * d_tau  # s' / s
        u: Tensor = self.velocity_model(x=x / append_axes(scale, x), t=tau, **extras)
        return append_axes(growth, x) * x + append_axes(scale * d_tau, x) * u


def _norm(c: SchedulerOutput) -> Tensor:
    return (c.alpha_t**2 + c.sigma_t**2).sqrt()


def _turning(c: SchedulerOutput) -> Tensor:
    """Angular velocity of (sigma, alpha)."""
    area = c.d_alpha_t * c.sigma_t - c.alpha_t * c.d_sigma_t
    return area / (c.alpha_t**2 + c.sigma_t**2)


def _growth(c: SchedulerOutput) -> Tensor:
    """d log norm / dt."""
    inner = c.alpha_t * c.d_alpha_t + c.sigma_t * c.d_sigma_t
    return inner / (c.alpha_t**2 + c.sigma_t**2)
