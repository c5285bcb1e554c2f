"""The five flow matchers: states and regression targets from pairs of samples."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_floating, check_nonnegative, check_number, per_row
from fastgen.common.display import displayed
from fastgen.common.typed import typed
from fastgen.integrations.torchcfm.optimal_transport import OTPlanSampler, Replace, contract_seed
from fastgen.training.paths import Brownian, Interpolant, Linear, Path, Target

Times = Tensor | float
# torchcfm's guard against division by zero.
GUARD = 1e-8
FORMULAS = (
    "compute_mu_t",
    "compute_sigma_t",
    "sample_xt",
    "compute_conditional_flow",
    "sample_noise_like",
)


def pad_t_like_x(t: Any, x: Tensor) -> Any:
    """Times [B] as [B, 1, ...], with as many axes as x; numbers as they are."""
    if isinstance(t, float | int):
        return t
    return per_row(t, x)


@displayed
class ConditionalFlowMatcher:
    """Independent pairs: x_t = t x1 + (1 - t) x0 + sigma eps, u_t = x1 - x0.

    Tong et al. 2024 (arXiv 2302.00482), equations 14 and 15. Data are at t = 1: sample with
    `fastgen.Model(..., data_at=1)`.

    Args:
        sigma: standard deviation of the path's noise.
        noise: "torch": times and noise in torchcfm's order from torch's generator, results equal
            to torchcfm's bit for bit; or "contract": both made inside one fused kernel, the k-th
            batch a function of (seed, k).
        seed: of noise="contract"; None takes one from torch's generator.

    Raises:
        ValueError: naming the argument.
    """

    def __init__(
        self, sigma: float = 0.0, *, noise: str = "torch", seed: int | None = None
    ) -> None:
        if not callable(sigma):  # a class of a user's may read something else here
            check_nonnegative("sigma", sigma)
        self.sigma = sigma
        self.seed = contract_seed(noise, seed)
        self.step = 0
        if self.seed is not None:
            for name in FORMULAS:
                owner = next(c for c in type(self).__mro__ if name in vars(c))
                if owner.__module__ != __name__:
                    raise ValueError(
                        f"noise='contract': {owner.__name__}.{name} would not be called; use "
                        "noise='torch'"
                    )
            self._path = self._contract_path()

    def _contract_path(self) -> Path:
        return Linear(self.sigma)

    def compute_mu_t(self, x0: Tensor, x1: Tensor, t: Times) -> Tensor:
        """The mean t x1 + (1 - t) x0, [B, ...]; t [B] or a number."""
        t = pad_t_like_x(t, x0)
        mean: Tensor = t * x1 + (1 - t) * x0
        return mean

    def compute_sigma_t(self, t: Times) -> Any:
        """The standard deviation sigma."""
        return self.sigma

    def sample_xt(self, x0: Tensor, x1: Tensor, t: Times, epsilon: Tensor) -> Tensor:
        """mu_t + sigma_t epsilon, [B, ...]."""
        sigma_t = pad_t_like_x(self.compute_sigma_t(t), x0)
        xt: Tensor = self.compute_mu_t(x0, x1, t) + sigma_t * epsilon
        return xt

    def compute_conditional_flow(self, x0: Tensor, x1: Tensor, t: Times, xt: Tensor) -> Tensor:
        """The velocity x1 - x0, [B, ...]."""
        return x1 - x0

    def sample_noise_like(self, x: Tensor) -> Tensor:
        """Normal noise like x."""
        return torch.randn_like(check_floating("x0", x))

    def compute_lambda(self, t: Times) -> Any:
        """2 sigma_t / (sigma^2 + 1e-8): [SF]2M's weight of the score (arXiv 2307.03672, eq. 23)."""
        return 2 * self.compute_sigma_t(t) / (self.sigma**2 + GUARD)

    @typed
    def sample_location_and_conditional_flow(
        self, x0: Tensor, x1: Tensor, t: Tensor | None = None, return_noise: bool = False
    ) -> tuple[Tensor, ...]:
        """A training batch.

        Args:
            x0: source [B, ...]. x1: data [B, ...].
            t: times [B]; None draws them, uniform in [0, 1).
            return_noise: whether to return eps.

        Returns:
            t [B], x_t [B, ...], u_t [B, ...], and eps [B, ...] if asked for.

        Raises:
            ValueError: naming the argument.
        """
        if t is not None and len(t) != len(x0):
            raise ValueError(f"t: expected {len(x0)} times, one for each of x0, got {len(t)}")
        if t is not None and t.numel() != len(x0):
            raise ValueError(f"t: expected times [{len(x0)}], got shape {list(t.shape)}")
        if self.seed is not None:
            return self._from_contract(x0, x1, t, return_noise)
        if t is None:
            t = torch.rand(len(x0)).type_as(x0)
        epsilon = self.sample_noise_like(x0)
        xt = self.sample_xt(x0, x1, t, epsilon)
        ut = self.compute_conditional_flow(x0, x1, t, xt)
        return (t, xt, ut, epsilon) if return_noise else (t, xt, ut)

    def _from_contract(
        self, x0: Tensor, x1: Tensor, t: Tensor | None, return_noise: bool
    ) -> tuple[Tensor, ...]:
        assert self.seed is not None
        if x0.shape != x1.shape:
            raise ValueError(f"x1: expected shape {tuple(x0.shape)} as x0, got {tuple(x1.shape)}")
        batch = self._path.sample(
            None if self._path.noise_source else x0,
            x1,
            t,
            seed=self.seed,
            step=self.step,
            targets=("velocity", "noise") if return_noise else ("velocity",),
        )
        self.step += 1
        found = batch.t if t is None else t, batch.x_t, batch.velocity
        return (*found, batch.noise) if return_noise else found


class _Coupled(ConditionalFlowMatcher):
    """Pairs from a plan before everything else."""

    ot_sampler: OTPlanSampler
    replace: Replace

    @typed
    def sample_location_and_conditional_flow(
        self, x0: Tensor, x1: Tensor, t: Tensor | None = None, return_noise: bool = False
    ) -> tuple[Tensor, ...]:
        """A training batch, as of `ConditionalFlowMatcher`, of pairs from the plan."""
        x0, x1 = self.ot_sampler.sample_plan(x0, x1, self.replace)
        return super().sample_location_and_conditional_flow(x0, x1, t, return_noise)

    def guided_sample_location_and_conditional_flow(
        self,
        x0: Tensor,
        x1: Tensor,
        y0: Tensor | None = None,
        y1: Tensor | None = None,
        t: Tensor | None = None,
        return_noise: bool = False,
    ) -> tuple[Tensor | None, ...]:
        """The same with labels y0 and y1 [B] that follow their samples: t, x_t, u_t, y0, y1.

        And eps if asked for. The plan does not look at labels, which biases conditional generation:
        see docs/from/torchcfm.md.
        """
        x0, x1, y0, y1 = self.ot_sampler.sample_plan_with_labels(x0, x1, y0, y1, self.replace)
        found = super().sample_location_and_conditional_flow(x0, x1, t, return_noise)
        return (*found[:3], y0, y1, *found[3:])


class ExactOptimalTransportConditionalFlowMatcher(_Coupled):
    """Pairs of the exact minibatch plan on the path of `ConditionalFlowMatcher` (OT-CFM).

    Args:
        sigma, noise, seed: as there; the draws of pairs are `OTPlanSampler`'s.
        replace: True draws pairs with replacement, as torchcfm does; False each pair once, in
            random order; "once" the same in the order of x0.
    """

    def __init__(
        self,
        sigma: float = 0.0,
        *,
        replace: Replace = True,
        noise: str = "torch",
        seed: int | None = None,
    ) -> None:
        super().__init__(sigma, noise=noise, seed=seed)
        self.replace = replace
        self.ot_sampler = OTPlanSampler("exact", noise=noise, seed=self.seed)


class SchrodingerBridgeConditionalFlowMatcher(_Coupled):
    """Brownian bridges of diffusion sigma between pairs of a plan (SB-CFM).

    x_t = t x1 + (1 - t) x0 + sigma sqrt(t (1 - t)) eps,
    u_t = (1 - 2 t) / (2 t (1 - t)) (x_t - mu_t) + x1 - x0 (arXiv 2302.00482, equations 20 and 21).

    Args:
        sigma: diffusion, > 0; entropic plans have reg = 2 sigma^2.
        ot_method: of `OTPlanSampler`.
        replace: as of `OTPlanSampler.sample_plan`.
        noise, seed: as of `ConditionalFlowMatcher`. Given times are then inside (0, 1): at both
            ends the velocity is infinite.

    Raises:
        ValueError: for sigma <= 0.
    """

    def __init__(
        self,
        sigma: float = 1.0,
        ot_method: str = "exact",
        *,
        replace: Replace = True,
        noise: str = "torch",
        seed: int | None = None,
    ) -> None:
        if check_number("sigma", sigma) <= 0:
            raise ValueError(f"Sigma must be strictly positive, got {sigma}.")
        if sigma < 1e-3:
            warnings.warn("Small sigma values may lead to numerical instability.", stacklevel=2)
        super().__init__(sigma, noise=noise, seed=seed)
        self.ot_method, self.replace = ot_method, replace
        self.ot_sampler = OTPlanSampler(ot_method, reg=2 * sigma**2, noise=noise, seed=self.seed)

    def _contract_path(self) -> Path:
        return Brownian(self.sigma)

    def compute_sigma_t(self, t: Times) -> Any:
        """Sigma sqrt(t (1 - t))."""
        return self.sigma * torch.sqrt(_tensor(t * (1 - t)))

    def compute_conditional_flow(self, x0: Tensor, x1: Tensor, t: Times, xt: Tensor) -> Tensor:
        """The bridge's velocity, with 1e-8 added to 2 t (1 - t)."""
        t = pad_t_like_x(t, x0)
        mu_t = self.compute_mu_t(x0, x1, t)
        return (1 - 2 * t) / (2 * t * (1 - t) + GUARD) * (xt - mu_t) + x1 - x0


class TargetConditionalFlowMatcher(ConditionalFlowMatcher):
    """x_t = t x1 + (1 - (1 - sigma) t) eps: noise to data; x0 gives only the shape.

    Lipman et al. 2023 (arXiv 2210.02747), equations 20 and 21.
    """

    def _contract_path(self) -> Path:
        return Target(self.sigma)

    def compute_mu_t(self, x0: Tensor, x1: Tensor, t: Times) -> Tensor:
        """The mean t x1."""
        mean: Tensor = pad_t_like_x(t, x1) * x1
        return mean

    def compute_sigma_t(self, t: Times) -> Any:
        """1 - (1 - sigma) t."""
        return 1 - (1 - self.sigma) * t

    def compute_conditional_flow(self, x0: Tensor, x1: Tensor, t: Times, xt: Tensor) -> Tensor:
        """(x1 - (1 - sigma) x_t) / (1 - (1 - sigma) t)."""
        t = pad_t_like_x(t, x1)
        return (x1 - (1 - self.sigma) * xt) / (1 - (1 - self.sigma) * t)


class VariancePreservingConditionalFlowMatcher(ConditionalFlowMatcher):
    """x_t = cos(pi t / 2) x0 + sin(pi t / 2) x1 + sigma eps.

    Albergo and Vanden-Eijnden 2023 (arXiv 2209.15571).
    """

    def _contract_path(self) -> Path:
        return Interpolant("trigonometric", self.sigma or None)

    def compute_mu_t(self, x0: Tensor, x1: Tensor, t: Times) -> Tensor:
        """The mean cos(pi t / 2) x0 + sin(pi t / 2) x1."""
        angle = _tensor(math.pi / 2 * pad_t_like_x(t, x0))
        mean: Tensor = torch.cos(angle) * x0 + torch.sin(angle) * x1
        return mean

    def compute_conditional_flow(self, x0: Tensor, x1: Tensor, t: Times, xt: Tensor) -> Tensor:
        """pi / 2 (cos(pi t / 2) x1 - sin(pi t / 2) x0)."""
        angle = _tensor(math.pi / 2 * pad_t_like_x(t, x0))
        velocity: Tensor = math.pi / 2 * (torch.cos(angle) * x1 - torch.sin(angle) * x0)
        return velocity


def _tensor(value: Any) -> Tensor:
    """Of a number a tensor of torch's default dtype; a tensor is left where it is."""
    return value if isinstance(value, Tensor) else torch.tensor(value, device="cpu")
