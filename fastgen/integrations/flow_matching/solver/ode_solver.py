"""`ODESolver`: samples and likelihoods of a velocity model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.common.derivatives import Pullback, check_whole_derivative, outside_inference_mode
from fastgen.common.display import displayed
from fastgen.common.errors import nearest
from fastgen.common.transforms import functional
from fastgen.integrations.flow_matching.solver.fixed import METHODS, integrate, times_of
from fastgen.integrations.flow_matching.solver.solver import Solver
from fastgen.ode import odeint

GIVE_DIVERGENCE = (
    "write it in operations that autograd records, or give its divergence: "
    "fastgen.log_likelihood(..., divergence=function)"
)
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "tsit5", "fehlberg2", "fehlberg45", "adaptive_heun")


@displayed
class ODESolver(Solver):
    """dx/dt = velocity_model(x=x, t=t, **extras), noise at t = 0 and data at t = 1.

    Args:
        velocity_model: called with x [B, ...] and t without axes.
    """

    def __init__(self, velocity_model: Callable[..., Tensor]) -> None:
        super().__init__()
        self.velocity_model = velocity_model

    def sample(  # type: ignore[override]
        self,
        x_init: Tensor,
        step_size: float | None,
        method: str = "euler",
        atol: float = 1e-5,
        rtol: float = 1e-5,
        time_grid: Tensor | Sequence[float] = (0.0, 1.0),
        return_intermediates: bool = False,
        enable_grad: bool = False,
        **model_extras: Any,
    ) -> Tensor:
        """Integrate from the first to the last time of the grid.

        Args:
            x_init: [B, ...] at the first time.
            step_size: of methods of fixed steps; None steps from time to time. None for adaptive
                methods.
            method: "euler", "midpoint", "heun2", "heun3", "rk4" (the 3/8 rule, as in
                torchdiffeq), or adaptive: "dopri5", "dopri8", "bosh3", "tsit5", "fehlberg2",
                "fehlberg45", "adaptive_heun", with one step size for the batch.
            atol: absolute tolerance of adaptive methods.
            rtol: relative tolerance.
            time_grid: T times that only rise or only fall.
            return_intermediates: return the states at all these times, [T, B, ...].
            enable_grad: whether the result is differentiable in x_init and the parameters.
            **model_extras: passed to the model.

        Raises:
            ValueError: naming the argument that is out of range.
        """
        times = times_of(time_grid)

        def field(k: int, x: Tensor, t: Tensor) -> Tensor:
            return self.velocity_model(x=x, t=t, **model_extras)

        if _adaptive(method, step_size):
            with torch.set_grad_enabled(enable_grad or functional()):
                states: Tensor = odeint(
                    lambda t, x: field(0, x, t.to(x.dtype)),
                    x_init,
                    torch.tensor(times, dtype=torch.float64, device="cpu"),
                    rtol=rtol,
                    atol=atol,
                    method=method,
                    step="joint",
                )
            return states if return_intermediates else states[-1]
        return integrate(field, x_init, times, step_size, method, return_intermediates, enable_grad)

    @outside_inference_mode
    def compute_likelihood(
        self,
        x_1: Tensor,
        log_p0: Callable[[Tensor], Tensor],
        step_size: float | None,
        method: str = "euler",
        atol: float = 1e-5,
        rtol: float = 1e-5,
        time_grid: Tensor | Sequence[float] = (1.0, 0.0),
        return_intermediates: bool = False,
        exact_divergence: bool = False,
        enable_grad: bool = False,
        **model_extras: Any,
    ) -> tuple[Tensor, Tensor]:
        """log p_1(x_1) = log p_0(x_0) - int_0^1 div u dt along the flow back to x_0.

        Chen et al. 2018 (arXiv 1806.07366), Grathwohl et al. 2019 (arXiv 1810.01367). The model
        is called once per evaluation, for the velocity and its divergence.

        Args:
            x_1: [B, ...], data.
            log_p0: log density of the noise: [B, ...] -> [B].
            step_size: as in `sample`.
            method: as in `sample`.
            atol: as in `sample`.
            rtol: as in `sample`.
            time_grid: times from 1 to 0.
            return_intermediates: return the states at all these times in place of x_0.
            exact_divergence: one derivative per element of a sample, in place of Hutchinson's
                estimate with one vector of random signs from torch's generator, the same at all
                times.
            enable_grad: whether the result is differentiable.
            **model_extras: passed to the model.

        Returns:
            (x_0 [B, ...] or the states [T, B, ...], log p_1 [B]).

        Raises:
            ValueError: naming the argument that is out of range.
        """
        times = times_of(time_grid)
        if times[0] != 1 or times[-1] != 0:
            raise ValueError(f"time_grid: expected times from 1 to 0, got {times}")
        signs = None if exact_divergence else (torch.randn_like(x_1) < 0).to(x_1.dtype) * 2 - 1

        looked_at = False

        def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal looked_at

            def velocity(x: Tensor) -> Tensor:
                found: Tensor = self.velocity_model(x=x, t=t, **model_extras)
                return found

            pair = velocity_and_divergence(velocity, x, signs, enable_grad)
            if not looked_at:
                looked_at = True
                check_whole_derivative("velocity_model", velocity, x, remedy=GIVE_DIVERGENCE)
            return pair

        if _adaptive(method, step_size):
            with torch.set_grad_enabled(enable_grad or functional()):
                states, change = odeint(
                    lambda t, y: both(y[0], t.to(x_1.dtype)),
                    (x_1, x_1.new_zeros(x_1.shape[0])),
                    torch.tensor(times, dtype=torch.float64, device="cpu"),
                    rtol=rtol,
                    atol=atol,
                    method=method,
                    step="joint",
                )
                return (
                    states if return_intermediates else states[-1],
                    log_p0(states[-1]) + change[-1],
                )
        factors: list[float] = []
        parts: list[Tensor] = []

        def field(k: int, x: Tensor, t: Tensor) -> Tensor:
            velocity, divergence = both(x, t)
            if factors[k]:
                parts.append(factors[k] * divergence)
            return velocity

        states = integrate(
            field, x_1, times, step_size, method, return_intermediates, enable_grad, factors.extend
        )
        with torch.set_grad_enabled(enable_grad or functional()):
            x_0 = states[-1] if return_intermediates else states
            return states, log_p0(x_0) + torch.stack(parts).sum(0)


def velocity_and_divergence(
    velocity: Callable[[Tensor], Tensor], x: Tensor, signs: Tensor | None, keep_graph: bool
) -> tuple[Tensor, Tensor]:
    """(u, div u [B]) at x, from one call; signs: Hutchinson's vector, None for every element."""
    with torch.set_grad_enabled(keep_graph):
        pull = Pullback(velocity, x, "velocity_model", remedy=GIVE_DIVERGENCE)
        u, x = pull.value, pull.x
        if signs is not None:
            product = pull.one(signs.to(u.dtype), last=True)
            divergence = (product * signs).flatten(1).sum(1)
        else:
            rows, count = x.shape[0], x.flatten(1).shape[1]
            divergence = x.new_zeros(rows)
            for i in range(count):
                one = torch.zeros_like(u).reshape(rows, -1)
                one[:, i] = 1
                product = pull.one(one.reshape(u.shape), i == count - 1)
                divergence = divergence + product.flatten(1)[:, i]
    return (u, divergence) if pull.tracked else (u.detach(), divergence.detach())


def _adaptive(method: str, step_size: float | None) -> bool:
    known = (*METHODS, *ADAPTIVE)
    if method not in known:
        raise ValueError(f"method={method!r}: {nearest(method, known)}")
    if method in ADAPTIVE and step_size is not None:
        raise ValueError(f"step_size={step_size!r}: {method!r} chooses its steps; give None")
    return method in ADAPTIVE
