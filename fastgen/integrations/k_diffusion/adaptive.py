"""DPM-Solver-12 and -23 with error control, for a whole batch or for each sample on its own.

In t = -log sigma with noise predictions eps (Lu et al. 2022, arXiv 2206.00927, app. C and D):
every point is linear in the state and the denoised states found so far, so each is one kernel
call with one row of coefficients, or one per sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.common.checks import per_row
from fastgen.common.devices import upload
from fastgen.common.unwritten import check_unwritten, version
from fastgen.integrations.common.noise import NoiseSource
from fastgen.kernels import Noise

Array = NDArray[np.float64]
END = 1e-5  # how near t must come to its end


@dataclass
class PidController:
    """k-diffusion's PID controller of step sizes, one for each of ``rows`` integrations.

    The next step is this one times 1 + atan(f - 1), f the product of powers of the last three
    inverse errors; a step counts if that factor is at least accept_safety.
    """

    rows: int
    h_init: float
    pcoeff: float
    icoeff: float
    dcoeff: float
    order: float
    accept_safety: float
    eps: float = 1e-8
    h: Array = field(init=False)

    def __post_init__(self) -> None:
        if not abs(self.h_init) > 0:
            raise ValueError(f"h_init={self.h_init!r}: expected a step that is not 0")
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        self.powers = np.array([p + i + d, -(p + 2 * d), d]) / self.order
        self.h = np.full(self.rows, abs(float(self.h_init)))
        self.inverse: Array = np.empty((0, self.rows))

    def propose(self, error: Array, active: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether each step counts; sets the size of the next."""
        now = 1 / (error + self.eps)
        if not len(self.inverse):
            self.inverse = np.stack([now] * 3)
        self.inverse[0] = np.where(active, now, self.inverse[0])
        factor = 1 + np.arctan(np.prod(self.inverse ** self.powers[:, None], axis=0) - 1)
        accepted: NDArray[np.bool_] = (factor >= self.accept_safety) & active
        shifted = self.inverse[[0, 0, 1]]
        self.inverse = np.where(accepted, shifted, self.inverse)
        self.h = np.where(active, self.h * factor, self.h)
        return accepted


class DpmAdaptive:
    """One integration; see `sample_dpm_adaptive` for the arguments."""

    def __init__(
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        extra_args: dict[str, Any],
        order: int,
        controller: PidController,
        noise: NoiseSource,
        eta: float,
        s_noise: float,
    ) -> None:
        self.model, self.extra_args, self.order = model, extra_args, order
        self.controller, self.eta, self.s_noise = controller, eta, s_noise
        self.given = x
        self.dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.x = x.to(self.dtype, copy=True)
        self.noise = noise
        self.accepted = np.zeros(controller.rows, dtype=np.int64)
        self.seeds, self.ids = noise.keys(x.shape[0], x.device)

    def integrate(
        self,
        start: float,
        end: float,
        rtol: float,
        atol: float,
        callback: Callable[[dict[str, Any]], object] | None,
        bar: Any,
        max_steps: int | None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """x at t = end and the counts."""
        pid, rows = self.controller, self.controller.rows
        direction = 1.0 if end > start else -1.0
        s, steps, evaluations = np.full(rows, start), np.zeros(rows, int), np.zeros(rows, int)
        accepts = np.zeros(rows, int)
        previous, denoised = self.x, None
        with torch.no_grad():
            while True:
                active = direction * s < direction * end - END
                if not active.any() or not self.x.numel():
                    break
                t = np.where(active, s + direction * pid.h, s + 0.1 * direction)
                t = np.where(active, direction * np.minimum(direction * t, direction * end), t)
                down, up = self._ancestral(s, t, end)
                if denoised is None:
                    denoised = self._denoise(self.x.to(self.given.dtype), s, bar)
                    evaluations += active
                low, high = self._step(denoised, s, down, bar)
                evaluations += active * (self.order - 1)
                error = self._error(low, high, previous, rtol, atol)
                if not np.isfinite(error[active]).all():
                    raise RuntimeError(
                        f"sample_dpm_adaptive: the error of the step from sigma = "
                        f"{math.exp(-s[active][0]):.6g} is not a number; does the model return "
                        "numbers that are not finite?"
                    )
                accepted = pid.propose(error, active)
                start_of_step, steps = denoised, steps + active
                if accepted.any():
                    self._accept(accepted, low, high, s, t, up)
                    previous = self._chosen(accepted, low, previous)
                    s, denoised = np.where(accepted, t, s), None
                accepts += accepted
                counts = {
                    "steps": steps,
                    "nfe": evaluations,
                    "n_accept": accepts,
                    "n_reject": steps - accepts,
                }
                info = {k: v.copy() if rows > 1 else int(v[0]) for k, v in counts.items()}
                if callback is not None:
                    times = self._shown(s)
                    sigma = times.neg().exp()
                    callback(
                        {
                            "sigma": sigma,
                            "sigma_hat": sigma,
                            "x": self.x.to(self.given.dtype, copy=True),
                            "i": int(steps.max()) - 1,
                            "t": times,
                            "t_up": times,
                            "denoised": start_of_step,
                            "error": self._shown(error),
                            "h": direction * pid.h if rows > 1 else float(direction * pid.h[0]),
                            **info,
                        }
                    )
                left = direction * s < direction * end - END
                if max_steps is not None and steps.max() >= max_steps and left.any():
                    raise RuntimeError(
                        f"max_steps={max_steps}: the integration has come to sigma = "
                        f"{math.exp(-s[left][0]):.6g} only; allow more steps or larger tolerances"
                    )
        zeros: Any = np.zeros(rows, int) if rows > 1 else 0
        if not steps.any():
            info = dict.fromkeys(("steps", "nfe", "n_accept", "n_reject"), zeros)
        return self.x.to(self.given.dtype), info

    def _shown(self, values: Array) -> Tensor:
        shown = values if len(values) > 1 else values[0]
        return torch.as_tensor(shown, dtype=torch.get_default_dtype(), device=self.given.device)

    def _ancestral(self, s: Array, t: Array, end: float) -> tuple[Array, Array]:
        """Where steps go down to, and the standard deviation of the noise back up."""
        if not self.eta:
            return t, np.zeros_like(t)
        high, low = np.exp(-s), np.exp(-t)
        up = np.minimum(low, self.eta * low * np.sqrt(-np.expm1(-2 * (t - s))))
        with np.errstate(divide="ignore"):
            down = -np.log(np.sqrt((low - up) * (low + up)))
        down = np.where(high > low, np.minimum(down, np.maximum(end, t)), t)
        left = np.exp(-down)
        return down, np.sqrt((low - left) * (low + left))

    def _denoise(self, point: Tensor, t: Array, bar: Any) -> Tensor:
        level = torch.from_numpy(np.exp(-t)).to(point.device, point.dtype)
        before = version(point)
        denoised = self.model(point, level.expand(point.shape[0]).clone(), **self.extra_args)
        check_unwritten("model", point, before)
        if bar is not None:
            bar.update()
        if not isinstance(denoised, Tensor) or denoised.shape != point.shape:
            raise ValueError(
                f"model: expected a tensor {tuple(point.shape)} from model(x, sigma, "
                f"**extra_args), got {tuple(getattr(denoised, 'shape', ()))}"
            )
        return denoised

    def _combine(
        self, inputs: list[Tensor], rows: list[list[Array]], cast: int = 0
    ) -> list[Tensor]:
        """Outputs with the given coefficients [R] of each input; the first ``cast`` also as
        the network reads them, at the end.
        """
        if self.given.dtype != self.dtype:
            rows = rows + rows[:cast]
        dtypes = [self.dtype] * len(rows)
        if self.given.dtype != self.dtype and cast:
            dtypes[-cast:] = [self.given.dtype] * cast
        table = np.ascontiguousarray(np.moveaxis(np.array(rows), -1, 0))
        device = self.given.device
        return kernels.combine(inputs, upload(torch.from_numpy(table), device), dtypes)

    def _step(self, denoised: Tensor, s: Array, t: Array, bar: Any) -> tuple[Tensor, Tensor]:
        """x_low and x_high."""
        h, sigma, end = t - s, np.exp(-s), np.exp(-t)
        r1 = 1 / 2 if self.order == 2 else 1 / 3

        def first_order(factor: Array) -> list[Array]:
            """Coefficients of x and D in x - factor eps."""
            return [1 - factor / sigma, factor / sigma]

        def corrected(factor: Array, change: Array, level: Array) -> list[Array]:
            """Of x, D, u, D_u in x - factor eps - change (eps_u - eps)."""
            return [*first_order(factor - change), -change / level, change / level]

        middle = s + r1 * h
        points = self._combine(
            [self.x, denoised],
            [
                first_order(np.exp(-middle) * np.expm1(r1 * h)),
                *([first_order(end * np.expm1(h))] if self.order == 2 else []),
            ],
            cast=1,
        )
        u, low = points[0], points[1] if self.order == 2 else None
        network = points[-1] if self.given.dtype != self.dtype else u
        d = self._denoise(network, middle, bar)
        inputs = [self.x, denoised, u, d]
        second = corrected(end * np.expm1(h), end / (2 * r1) * np.expm1(h), np.exp(-middle))
        if low is not None:
            return low, self._combine(inputs, [second])[0]
        late, r2h = s + 2 / 3 * h, 2 / 3 * h
        change = np.exp(-late) * 2 * (np.expm1(r2h) / r2h - 1)
        point = corrected(np.exp(-late) * np.expm1(r2h), change, np.exp(-middle))
        points = self._combine(inputs, [point, second], cast=1)
        d = self._denoise(points[0] if len(points) == 2 else points[2], late, bar)
        change = end * 1.5 * (np.expm1(h) / h - 1)
        result = corrected(end * np.expm1(h), change, np.exp(-late))
        return points[1], self._combine([self.x, denoised, points[0], d], [result])[0]

    def _error(
        self, low: Tensor, high: Tensor, previous: Tensor, rtol: float, atol: float
    ) -> Array:
        delta = torch.maximum(low.abs(), previous.abs()).mul_(rtol).clamp_(min=atol)
        rows = ((low - high) / delta).reshape(self.controller.rows, -1)
        error = torch.linalg.vector_norm(rows, dim=1) / rows.shape[1] ** 0.5
        values: Array = error.double().cpu().numpy()
        return values

    def _chosen(self, accepted: NDArray[np.bool_], new: Tensor, old: Tensor) -> Tensor:
        if accepted.all():
            return new
        mask = torch.from_numpy(accepted).to(new.device)
        return torch.where(per_row(mask, new), new, old)

    def _accept(
        self, accepted: NDArray[np.bool_], low: Tensor, high: Tensor, s: Array, t: Array, up: Array
    ) -> None:
        self.accepted += accepted
        std = self.s_noise * up
        one = np.ones_like(std)
        noisy = bool(std.any())
        if self.noise.in_kernels and noisy:
            table = upload(torch.from_numpy(np.stack([one, std], -1)[:, None]), high.device)
            draws = torch.from_numpy(self.accepted).to(high.device)
            draws = draws[:, None].expand(high.shape[0], 1).contiguous()
            drawn = Noise(self.seeds, self.ids, draws)
            high = kernels.combine([high], table, noise=drawn)[0]
        elif self.noise.sampler is not None and (
            noisy or self.noise.kind == "torch" or self.noise.foreign
        ):
            sigmas = [np.exp(-s), np.exp(-t)]
            levels = [self._shown(v) for v in sigmas] if self.noise.foreign else sigmas
            z = self.noise.sampler(*levels)
            high = self._combine([high, z], [[one, std]])[0] if noisy else high
        self.x = self._chosen(accepted, high, self.x)
