"""Affine and geodesic paths: points and their velocities, for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.common.display import displayed
from fastgen.common.transforms import traced
from fastgen.integrations.common.tensors import append_axes
from fastgen.integrations.flow_matching.path.scheduler.scheduler import (
    CondOTScheduler,
    ConvexScheduler,
    Scheduler,
)
from fastgen.integrations.flow_matching.utils.manifolds import Manifold
from fastgen.kernels.contract import DTYPE_CODES


@displayed
@dataclass
class PathSample:
    """Points of paths: x_1, x_0 and x_t with velocity dx_t [B, ...] at times t [B]."""

    x_1: Tensor
    x_0: Tensor
    t: Tensor
    x_t: Tensor
    dx_t: Tensor


class ShapeError(ValueError, AssertionError):
    """A ValueError that those who expect flow_matching's AssertionError catch, too."""


@displayed
class ProbPath:
    """Paths from x_0 (noise, t = 0) to x_1 (data, t = 1)."""

    def sample(self, x_0: Tensor, x_1: Tensor, t: Tensor) -> PathSample:
        """The points at times t [B] of the paths between x_0 and x_1, [B, ...]."""
        raise NotImplementedError(f"{type(self).__name__} must define sample(x_0, x_1, t)")

    @staticmethod
    def assert_sample_shape(x_0: Tensor, x_1: Tensor, t: Tensor) -> None:
        """Raise a `ShapeError` unless x_0 and x_1 are [B, ...] alike and t is [B]."""
        if x_0.shape != x_1.shape or t.ndim != 1 or t.shape[0] != x_1.shape[:1].numel():
            raise ShapeError(
                f"x_0, x_1, t: expected [B, ...] twice and [B], got {tuple(x_0.shape)}, "
                f"{tuple(x_1.shape)} and {tuple(t.shape)}"
            )


class AffineProbPath(ProbPath):
    """x_t = sigma_t x_0 + alpha_t x_1 and dx_t = sigma_t' x_0 + alpha_t' x_1, in one kernel call.

    Differentiable in x_0 and x_1, and in t.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def sample(self, x_0: Tensor, x_1: Tensor, t: Tensor) -> PathSample:
        """The points at times t [B] of the paths between x_0 and x_1, [B, ...]."""
        self.assert_sample_shape(x_0, x_1, t)
        c = self.scheduler(t)
        rows = [c.sigma_t, c.alpha_t, c.d_sigma_t, c.d_alpha_t]
        if t.requires_grad or traced(t) or x_0.dtype != x_1.dtype or x_0.dtype not in DTYPE_CODES:
            a, b, da, db = (append_axes(r, x_1) for r in rows)
            x_t, dx_t = a * x_0 + b * x_1, da * x_0 + db * x_1
        else:
            table = torch.stack(rows, -1).double().reshape(-1, 2, 2)
            x_t, dx_t = kernels.combine([x_0, x_1], table.to(x_1.device), [x_1.dtype] * 2)
        return PathSample(x_t=x_t, dx_t=dx_t, x_1=x_1, x_0=x_0, t=t)

    def _solve(
        self, wanted: tuple[str, str], given: tuple[str, str], value: Tensor, x_t: Tensor, t: Tensor
    ) -> Tensor:
        """The quantity a x_0 + b x_1 from another one and x_t, (a, b) named in the scheduler.

        With x_t = sigma x_0 + alpha x_1 and y = c x_0 + d x_1, the determinant being
        sigma d - alpha c.
        """
        o = self.scheduler(t)
        parts = {
            "0": torch.zeros_like(o.alpha_t), "1": torch.ones_like(o.alpha_t),
            "d_sigma": o.d_sigma_t, "d_alpha": o.d_alpha_t,
        }  # fmt: skip
        (a, b), (c, d) = ([parts[name] for name in pair] for pair in (wanted, given))
        determinant = o.sigma_t * d - o.alpha_t * c
        of_x, of_value = a * d - b * c, o.sigma_t * b - o.alpha_t * a
        total = append_axes(of_x, x_t) * x_t + append_axes(of_value, x_t) * value
        return total / append_axes(determinant, x_t)

    def target_to_velocity(self, x_1: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The velocity from a prediction of x_1."""
        return self._solve(VELOCITY, TARGET, x_1, x_t, t)

    def epsilon_to_velocity(self, epsilon: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The velocity from a prediction of x_0."""
        return self._solve(VELOCITY, EPSILON, epsilon, x_t, t)

    def velocity_to_target(self, velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x_1 from the velocity."""
        return self._solve(TARGET, VELOCITY, velocity, x_t, t)

    def epsilon_to_target(self, epsilon: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x_1 from a prediction of x_0."""
        return self._solve(TARGET, EPSILON, epsilon, x_t, t)

    def velocity_to_epsilon(self, velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x_0 from the velocity."""
        return self._solve(EPSILON, VELOCITY, velocity, x_t, t)

    def target_to_epsilon(self, x_1: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x_0 from a prediction of x_1."""
        return self._solve(EPSILON, TARGET, x_1, x_t, t)


EPSILON, TARGET, VELOCITY = ("1", "0"), ("0", "1"), ("d_sigma", "d_alpha")


class CondOTProbPath(AffineProbPath):
    """Straight lines x_t = (1 - t) x_0 + t x_1."""

    def __init__(self) -> None:
        super().__init__(CondOTScheduler())


class GeodesicProbPath(ProbPath):
    """Geodesics x_t = exp_{x_0}(kappa_t log_{x_0} x_1) of a manifold.

    Chen and Lipman 2024 (arXiv 2302.03660). The velocity is kappa_t' log_{x_t}(x_1) / (1 - kappa_t)
    or -kappa_t' log_{x_t}(x_0) / kappa_t.
    """

    def __init__(self, scheduler: ConvexScheduler, manifold: Manifold) -> None:
        self.scheduler, self.manifold = scheduler, manifold

    def sample(self, x_0: Tensor, x_1: Tensor, t: Tensor) -> PathSample:
        """The points at times t [B] of the geodesics between x_0 and x_1, [B, ...]."""
        self.assert_sample_shape(x_0, x_1, t)
        tangent = self.manifold.logmap(x_0, x_1)
        c = self.scheduler(t)
        kappa, speed = append_axes(c.alpha_t, x_1), append_axes(c.d_alpha_t, x_1)
        x_t = self.manifold.expmap(x_0, kappa * tangent)
        # The velocity follows from either end; from the farther one without loss of digits.
        early = kappa < 0.5
        end, share = torch.where(early, x_1, x_0), torch.where(early, 1 - kappa, -kappa)
        dx_t = speed / share * self.manifold.logmap(x_t, end)
        return PathSample(x_t=x_t, dx_t=dx_t, x_1=x_1, x_0=x_0, t=t)
