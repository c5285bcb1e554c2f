"""DPM-Solver with error-controlled steps in the log signal-to-noise ratio."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_choice, per_row, rows_of
from fastgen.common.padding import Padding
from fastgen.common.repeats import Looks, check_repeats
from fastgen.common.step_size import LEAST_ERROR, Controller, fitted
from fastgen.common.typed import typed
from fastgen.kernels.dispatch import BACKENDS
from fastgen.kernels.runge_kutta.contract import Status
from fastgen.kernels.runge_kutta.reference import error_norm
from fastgen.model.field import ModelField
from fastgen.ode import Accepted, Solution, Statistics

CONTROLLER = Controller(integral=1.0, safety=0.9)


@typed
def dpm_adaptive(
    field: ModelField,
    x: Tensor,
    start: float,
    end: float,
    *,
    order: int = 3,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    controller: str | Controller = CONTROLLER,
    first_step: float = 0.05,
    max_steps: int = 10_000,
    mask: Tensor | None = None,
    on_failure: str = "raise",
    backend: str | None = None,
    watch: Callable[[Accepted], object] | None = None,
) -> Solution:
    """DPM-Solver-12 (order 2) or -23 (order 3) of Lu et al. 2022, arXiv 2206.00927, appendix C.

    With lambda = log(alpha / sigma), h = lambda_t - lambda_s, phi_1 = e^h - 1, and u_i the state
    at lambda_s + r_i h:

        order 1:  x_1 = alpha_t/alpha_s x - sigma_t phi_1 eps(x, s),
        order 2:  x_2 = x_1 - sigma_t/(2 r_1) phi_1 (eps(u_1) - eps(x)),           r_1 = 1/2 or 1/3,
        order 3:  x_3 = x_1 - sigma_t/r_2 (phi_1/h - 1) (eps(u_2) - eps(x)),       r_2 = 2/3.

    The lower order of a pair is the error estimate, and the higher one is kept. Every sample has
    its own steps; those that have arrived are no longer evaluated.

    Args:
        field: the model at times that differ between samples.
        x: [B, ...] at time `start`.
        start, end: times with finite log-SNR.
        order: 2 or 3.
        rtol, atol: tolerances of the state.
        controller: as in `fastgen.odeint`; its steps are those of lambda.
        first_step: of lambda, where the controller has none.
        max_steps: most attempts of one sample.
        mask: as in `fastgen.odeint`.
        on_failure: "raise" or "return".
        backend: None, "auto" or "reference"; these steps have one implementation.
        watch: called after every step in which a sample moved; its slopes are noise predictions.

    Raises:
        ValueError: naming the argument. RuntimeError: naming the first sample that failed.
    """
    schedule = field.schedule
    if order not in (2, 3):
        raise ValueError(f"order={order!r}: expected 2 or 3")
    check_choice("on_failure", on_failure, ("raise", "return"))
    check_choice("backend", "auto" if backend is None else backend, BACKENDS)
    if backend in ("cpp", "triton"):
        raise ValueError(f"backend={backend!r}: dpm_adaptive runs in PyTorch only; leave it out")
    if not first_step > 0 or max_steps < 1:
        raise ValueError(f"first_step={first_step!r}, max_steps={max_steps!r}: expected > 0")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value!r}: expected 0 <= {name} < inf")
    limits = schedule.half_log_snr(float(start)), schedule.half_log_snr(float(end))
    if not all(map(math.isfinite, limits)):
        raise ValueError(
            f"start={start!r}, end={end!r}: log(alpha / sigma) is {limits} there; start and end "
            "where it is finite"
        )
    chosen = Controller.of(controller)
    rule = chosen.step_size(order, max_steps)
    batch, device = x.shape[0], x.device
    first = first_step if chosen.first_step is None else chosen.first_step

    def full(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.full((batch,), value, dtype=dtype, device=device)

    at, older, oldest = full(limits[0]), full(1.0), full(1.0)
    size = torch.as_tensor(first, dtype=torch.float64, device=device).expand(batch).clone()
    status, accepted, rejected = (full(Status.RUNNING, torch.int64) for _ in range(3))
    if limits[0] == limits[1]:
        status.fill_(Status.DONE)
    padding = Padding(torch.ones((), dtype=torch.bool, device="cpu") if mask is None else mask, x)
    x = x if mask is None else padding.clear(x)
    relative, absolute = full(rtol), full(atol)
    y, slope = x.clone(), torch.zeros_like(x)
    known = torch.zeros(batch, dtype=torch.bool, device=device)
    calls = evaluated = shown = 0
    # Of each sample's last evaluation at a state, for who watches.
    points = None if watch is None else (at.clone(), y.clone(), slope.clone())
    evaluations = torch.zeros_like(status)

    def noise(level: Tensor, state: Tensor, rows: Tensor) -> Tensor:
        nonlocal calls, evaluated
        calls, evaluated = calls + 1, evaluated + len(rows)
        evaluations[rows] += 1
        found = field("noise", schedule.time_at(level), state, rows)
        return found if mask is None else padding.clear(found, rows)

    looks = Looks()
    while True:
        rows = (status == Status.RUNNING).nonzero().flatten()
        if not len(rows):
            break
        if looks.due(calls):
            found = noise(at[rows], y[rows], rows).clone()
            again = noise(at[rows], y[rows], rows)
            weight = schedule.sigma(schedule.time_at(at[rows]))  # of the noise in a step
            scale = y[rows].abs() * per_row(relative[rows], found)
            scale = scale + per_row(absolute[rows], found)
            check_repeats("net", found, again, weight * size[rows], scale, rows)
        fresh = rows[~known[rows]]
        if len(fresh):
            slope[fresh] = noise(at[fresh], y[fresh], fresh)
            known[fresh] = True
        rest = limits[1] - at[rows]
        h = fitted(rest, size[rows])
        low, high = _pair(schedule, order, at[rows], h, y[rows], slope[rows], noise, rows)
        ratio = error_norm(
            rows_of(high - low),
            rows_of(y[rows]),
            rows_of(low),
            relative[rows],
            absolute[rows],
            [high[0].numel()],
            padding.count[rows],
        )
        taken = rule.accepts(ratio, h.abs())
        past = older[rows], oldest[rows]
        size[rows] = rule.within(h.abs() * rule.factor(ratio, taken, past))
        moved, landed = rows[taken], (h == rest)[taken]
        before = None if points is None else (at.clone(), y.clone())
        y[moved], known[moved] = high[taken], False
        at[moved] = torch.where(landed, limits[1], at[moved] + h[taken])
        oldest[moved], older[moved] = older[moved], ratio[taken].clamp(min=LEAST_ERROR)
        accepted[moved] += 1
        rejected[rows[~taken]] += 1
        status[moved[landed]] = Status.DONE
        if watch is not None and points is not None and before is not None and len(moved):
            who = torch.zeros_like(known).index_fill_(0, moved, True)
            points[0][moved], points[1][moved] = before[0][moved], before[1][moved]
            points[2][moved] = slope[moved]
            times = torch.where(status == Status.DONE, float(end), schedule.time_at(at))
            where, point, eps = schedule.time_at(points[0]), points[1].clone(), points[2].clone()
            watch(Accepted(shown, times, who, y.clone(), eps, where, point))
            shown += 1
        left = rows[status[rows] == Status.RUNNING]
        spent = (accepted[left] + rejected[left]) >= max_steps
        stuck = size[left] <= 1e-12 * at[left].abs().clamp(min=1.0)
        status[left] = torch.where(
            spent,
            int(Status.MAX_STEPS),
            torch.where(stuck, int(Status.UNDERFLOW), status[left]),
        )
    failed = status != Status.DONE
    if on_failure == "raise" and bool(failed.any()):
        sample = int(failed.nonzero()[0])
        raise RuntimeError(
            f"sample {sample} stopped at log(alpha / sigma)={float(at[sample]):.6g} "
            f"({Status(int(status[sample])).name.lower()}) after {int(accepted[sample])} accepted "
            f"and {int(rejected[sample])} rejected steps; loosen rtol and atol, or allow more "
            f"max_steps than {max_steps}; on_failure='return' gives the states so far"
        )
    stats = Statistics(evaluations, accepted, rejected, calls, evaluated)
    reached = schedule.time_at(at)
    reached = torch.where(status == Status.DONE, float(end), reached)
    return Solution(torch.stack([x, y]), status, reached, stats)


def _pair(
    schedule: Any,
    order: int,
    at: Tensor,
    h: Tensor,
    x: Tensor,
    slope: Tensor,
    noise: Any,
    rows: Tensor,
) -> tuple[Tensor, Tensor]:
    """The states of lower and of higher order at at + h."""
    s = schedule.time_at(at)

    def wide(values: Tensor) -> Tensor:
        return per_row(values.to(x.dtype), x)

    def first(r: float) -> tuple[Tensor, Tensor, Tensor]:
        """The first-order state at at + r h, sigma there, and e^(r h) - 1."""
        t = schedule.time_at(at + r * h)
        sigma, growth = schedule.sigma(t), torch.expm1(r * h)
        ratio = schedule.alpha(t) / schedule.alpha(s)
        return wide(ratio) * x - wide(sigma * growth) * slope, sigma, growth

    end, sigma, growth = first(1.0)
    r1 = 1 / 2 if order == 2 else 1 / 3
    u1, _, _ = first(r1)
    change1 = noise(at + r1 * h, u1, rows) - slope
    second = end - wide(sigma * growth / (2 * r1)) * change1
    if order == 2:
        return end, second
    r2 = 2 / 3
    u2, sigma2, growth2 = first(r2)
    u2 = u2 - wide(sigma2 * (r2 / r1) * (growth2 / (r2 * h) - 1)) * change1
    change2 = noise(at + r2 * h, u2, rows) - slope
    return second, end - wide(sigma / r2 * (growth / h - 1)) * change2
