"""Pieces of k-diffusion's samplers: `DPMSolver`, its control of steps, LMS's weights, densities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgen.integrations.k_diffusion.adaptive import PidController
from fastgen.integrations.k_diffusion.dpm_solver import sample_dpm_adaptive, sample_dpm_fast
from fastgen.integrations.k_diffusion.utils import to_d
from fastgen.ode import odeint

Cache = dict[Any, Tensor]


def linear_multistep_coeff(order: int, t: Any, i: int, j: int) -> float:
    """The integral over [t_i, t_i+1] of the Lagrange polynomial of t_i-j among t_i .. t_i-order+1.

    Exact: by Gauss and Legendre's rule for the polynomial's degree; k-diffusion integrates to 1e-4.

    Raises:
        ValueError: if there are not so many times yet.
    """
    if order - 1 > i:
        raise ValueError(f"order={order}: too high for step {i}")
    times = [float(x) for x in t]
    nodes, weights = np.polynomial.legendre.leggauss((order + 1) // 2 + 1)
    half, middle = (times[i + 1] - times[i]) / 2, (times[i + 1] + times[i]) / 2
    own, value = times[i - j], np.full_like(nodes, 1.0)
    for k in range(order):
        if k != j:
            value = value * (middle + half * nodes - times[i - k]) / (own - times[i - k])
    return float(half * (weights * value).sum())


@torch.no_grad()
def log_likelihood(
    model: Callable[..., Tensor],
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    extra_args: Mapping[str, Any] | None = None,
    atol: float = 1e-4,
    rtol: float = 1e-4,
) -> tuple[Tensor, dict[str, int]]:
    """Log-densities [B] of x [B, ...] in nats, by the probability flow and Hutchinson's trace.

    Args:
        model: a denoiser, called as model(x, sigma [B], **extra_args).
        x: data, at level sigma_min.
        sigma_min, sigma_max: the flow's levels; at the last x is taken for N(0, sigma_max^2).
        extra_args: of the model.
        atol, rtol: of the solve, one step size for the batch.

    Returns:
        The log-densities, and {"fevals": evaluations of the model}.
    """
    options, rows = dict(extra_args or {}), x.new_ones([len(x)])
    probe = torch.randint_like(x, 2) * 2 - 1
    evaluations = 0

    def field(sigma: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal evaluations
        evaluations += 1
        with torch.enable_grad():
            at = state[0].detach().clone().requires_grad_()
            slope = to_d(at, sigma * rows, model(at, sigma * rows, **options))
            (pulled,) = torch.autograd.grad((slope * probe).sum(), at)
        return slope.detach(), (probe * pulled).flatten(1).sum(1)

    start = x, x.new_zeros([len(x)])
    times = torch.tensor([sigma_min, sigma_max], dtype=torch.float64, device=x.device)
    latents, gained = odeint(
        lambda t, y: field(t.reshape(-1)[0].to(x), y),
        start,
        times,
        rtol=rtol,
        atol=atol,
        method="dopri5",
        step="joint",
        gradient="none",
    )
    size, square = x[0].numel(), latents[-1].square().flatten(1).sum(1)
    prior = -square / (2 * sigma_max**2) - size * math.log(sigma_max * math.sqrt(2 * math.pi))
    return prior + gained[-1], {"fevals": evaluations}


class PIDStepSizeController:
    """k-diffusion's control of a step size ``h`` by proportional, integral and differential terms.

    h is multiplied by 1 + atan(f - 1), f the product of powers of the last three inverse errors; a
    step counts if that factor is at least accept_safety.
    """

    def __init__(
        self,
        h: float,
        pcoeff: float,
        icoeff: float,
        dcoeff: float,
        order: float = 1,
        accept_safety: float = 0.81,
        eps: float = 1e-8,
    ) -> None:
        self.sign = -1.0 if h < 0 else 1.0
        self.control = PidController(1, h, pcoeff, icoeff, dcoeff, order, accept_safety, eps)

    @property
    def h(self) -> float:
        """The next step's size."""
        return self.sign * float(self.control.h[0])

    def propose_step(self, error: float | Tensor) -> bool:
        """Whether the step of that error counts; sets ``h``."""
        found = self.control.propose(np.array([float(error)]), np.array([True]))
        return bool(found[0])


class DPMSolver(nn.Module):
    """DPM-Solver's steps in t = -log sigma (Lu et al. 2022, arXiv 2206.00927), and its two loops.

    Args:
        model: a denoiser, called as model(x, sigma [B], **extra_args).
        extra_args: of the model.
        eps_callback: called after each evaluation of the model.
        info_callback: called in every step with what k-diffusion's samplers tell.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        extra_args: Mapping[str, Any] | None = None,
        eps_callback: Callable[[], Any] | None = None,
        info_callback: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.extra_args = model, dict(extra_args or {})
        self.eps_callback, self.info_callback = eps_callback, info_callback

    def t(self, sigma: Tensor) -> Tensor:
        """-log sigma."""
        return -sigma.log()

    def sigma(self, t: Tensor) -> Tensor:
        """e^-t."""
        return t.neg().exp()

    def eps(
        self, eps_cache: Cache, key: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Cache]:
        """The noise prediction at x and t, from the cache where it has the key, and the cache."""
        if key in eps_cache:
            return eps_cache[key], eps_cache
        found = to_d(
            x, sigma := self.sigma(t) * x.new_ones([len(x)]), self._call(x, sigma, args, kwargs)
        )
        return found, {key: found, **eps_cache}

    def _call(self, x: Tensor, sigma: Tensor, args: tuple[Any, ...], kwargs: Any) -> Tensor:
        denoised = self.model(x, sigma, *args, **self.extra_args, **kwargs)
        if self.eps_callback is not None:
            self.eps_callback()
        return denoised

    def dpm_solver_1_step(
        self, x: Tensor, t: Tensor, t_next: Tensor, eps_cache: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """x - sigma' (e^h - 1) eps."""
        eps, cache = self.eps(eps_cache or {}, "eps", x, t)
        return x - self.sigma(t_next) * (t_next - t).expm1() * eps, cache

    def dpm_solver_2_step(
        self,
        x: Tensor,
        t: Tensor,
        t_next: Tensor,
        r1: float = 1 / 2,
        eps_cache: Cache | None = None,
    ) -> tuple[Tensor, Cache]:
        """With a second evaluation at t + r1 h: algorithm 4."""
        h = t_next - t
        eps, cache = self.eps(eps_cache or {}, "eps", x, t)
        inner = t + r1 * h
        u = x - self.sigma(inner) * (r1 * h).expm1() * eps
        other, cache = self.eps(cache, "eps_r1", u, inner)
        mean = eps + (other - eps) / (2 * r1)
        return x - self.sigma(t_next) * h.expm1() * mean, cache

    def dpm_solver_3_step(
        self,
        x: Tensor,
        t: Tensor,
        t_next: Tensor,
        r1: float = 1 / 3,
        r2: float = 2 / 3,
        eps_cache: Cache | None = None,
    ) -> tuple[Tensor, Cache]:
        """With evaluations at t + r1 h and t + r2 h: algorithm 5."""
        h = t_next - t
        eps, cache = self.eps(eps_cache or {}, "eps", x, t)
        first, second = t + r1 * h, t + r2 * h
        u = x - self.sigma(first) * (r1 * h).expm1() * eps
        one, cache = self.eps(cache, "eps_r1", u, first)
        phi = (r2 * h).expm1() / (r2 * h) - 1
        u = x - self.sigma(second) * ((r2 * h).expm1() * eps + r2 / r1 * phi * (one - eps))
        two, cache = self.eps(cache, "eps_r2", u, second)
        phi = h.expm1() / h - 1
        return x - self.sigma(t_next) * (h.expm1() * eps + phi / r2 * (two - eps)), cache

    def dpm_solver_fast(
        self,
        x: Tensor,
        t_start: Tensor,
        t_end: Tensor,
        nfe: int,
        eta: float = 0.0,
        s_noise: float = 1.0,
        noise_sampler: Any = None,
    ) -> Tensor:
        """`sample_dpm_fast` between these times."""
        low, high = self.sigma(t_end), self.sigma(t_start)
        result: Tensor = sample_dpm_fast(
            self._counted, x, float(low), float(high), nfe, self.extra_args, self.info_callback,
            True, eta, s_noise, noise_sampler,
        )  # fmt: skip
        return result

    def dpm_solver_adaptive(
        self, x: Tensor, t_start: Tensor, t_end: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, dict[str, int]]:
        """`sample_dpm_adaptive` between these times: the sample, and what the steps came to."""
        low, high = self.sigma(t_end), self.sigma(t_start)
        names = ("order", "rtol", "atol", "h_init", "pcoeff", "icoeff", "dcoeff", "accept_safety")
        options |= dict(zip((*names, "eta", "s_noise", "noise_sampler"), args, strict=False))
        result: tuple[Tensor, dict[str, int]] = sample_dpm_adaptive(
            self._counted, x, float(low), float(high), self.extra_args, self.info_callback, True,
            return_info=True, **options,
        )  # fmt: skip
        return result

    def _counted(self, x: Tensor, sigma: Tensor, *args: Any, **options: Any) -> Tensor:
        denoised = self.model(x, sigma, *args, **options)
        if self.eps_callback is not None:
            self.eps_callback()
        return denoised
