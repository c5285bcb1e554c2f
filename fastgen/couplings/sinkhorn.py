"""Entropic optimal transport between two clouds of points, without the matrix between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen.common.checks import check_at_least, check_choice, check_positive
from fastgen.common.compiling import uncompiled
from fastgen.common.derivatives import first_order
from fastgen.common.once import differentiable_once
from fastgen.common.transforms import untransformed
from fastgen.couplings import potentials
from fastgen.couplings.clouds import Clouds, prepare
from fastgen.couplings.points import check_clouds, weights_of
from fastgen.couplings.potentials import EntropicSolver, Marginals, Potentials, Start
from fastgen.couplings.result import SinkhornError, SinkhornResult
from fastgen.kernels import pairwise

RegScale = Literal["absolute", "mean_cost"]
OnFailure = Literal["raise", "return"]

# Annealed from the scale of the costs below this part of it, where it brings more than it costs.
_ANNEAL_BELOW = 0.02
# Sweeps between two looks at the error on a GPU, where each look waits for the device.
_CHECK_EVERY_ON_DEVICE = 10


# f and g count as constants for autograd: a tangent of the value alone would hide that.
DERIVATIVES = (
    "its value has gradients by backward(), its potentials f and g have none; "
    "sinkhorn_divergence takes forward-mode derivatives, torch.func.grad and jvp"
)


@uncompiled
@untransformed(DERIVATIVES)
def sinkhorn(
    x0: Tensor,
    x1: Tensor,
    reg: float,
    *,
    reg_scale: RegScale = "absolute",
    weights0: Tensor | None = None,
    weights1: Tensor | None = None,
    penalty: float | Sequence[float] | None = None,
    mass: float | None = None,
    warm_start: SinkhornResult | Tensor | None = None,
    anneal: bool | None = None,
    tolerance: float | None = None,
    max_iterations: int = 2000,
    relax: bool = True,
    on_failure: OnFailure = "raise",
    memory: int = 2**27,
    backend: str | None = None,
) -> SinkhornResult:
    """The entropic transport plan of x0 to x1 for the squared distance, as its potentials.

    Minimises <P, c> + reg KL(P | a b^T) over plans with marginals a and b (Cuturi 2013,
    arXiv 1306.0895), or with what `penalty` or `mass` make of them. Memory is that of a copy of the
    points; for a balanced problem on the CPU whose plan fits into `memory` it is kept there between
    sweeps, which saves them the products. The result does not depend on the number of threads.
    Differentiable: `result.value` in x0, x1 and the weights, by the envelope theorem, at a fixed
    absolute regularisation.

    Args:
        x0: [n, ...], float32 or float64 (which is then the arithmetic).
        x1: [m, ...], of the same trailing shape and device.
        reg: the regularisation, > 0.
        reg_scale: "absolute": reg is in units of the cost; "mean_cost": it is a part of the mean
            squared distance of the pairs of the two clouds.
        weights0: [n], >= 0; the default is 1 / n each.
        weights1: [m]; for a balanced problem its sum is that of weights0.
        penalty: rho of rho KL(marginal | weights) instead of exact marginals, in units of the cost:
            one for both marginals or one for each, math.inf for an exact one (semi-relaxed).
        mass: total mass of a partial plan, whose marginals stay below the weights.
        warm_start: an earlier result, or its potential g [m].
        anneal: begin with larger regularisations; None does so for small ones without warm start.
        tolerance: of the marginal error; the default is 1e-4 in float32 and 1e-7 in float64.
        max_iterations: sweeps of two half steps.
        relax: over-relax balanced problems (`fastgen.couplings.potentials.Relaxation`).
        on_failure: "raise" a `SinkhornError`, or "return" the result with converged=False.
        memory: bytes that the plan may take between sweeps; 0 keeps nothing.
        backend: as for `fastgen.kernels.dispatch.choose`.

    Raises:
        ValueError, TypeError: naming the argument that does not fit.
        SinkhornError: the tolerance was not reached.

    Example:
        >>> x0, x1 = fastgen.randn((128, 2), seed=0), fastgen.randn((128, 2), seed=1) + 3
        >>> result = fastgen.couplings.sinkhorn(x0, x1, reg=0.05)
        >>> result.converged, result.marginal_error < 1e-4
        (True, True)
    """
    check_clouds(x0, x1)
    a, b = weights_of("weights0", weights0, x0), weights_of("weights1", weights1, x1)
    check_choice("on_failure", on_failure, ("raise", "return"))
    check_at_least("max_iterations", max_iterations, 1)
    if not memory >= 0:
        raise ValueError(f"memory={memory}: expected bytes, at least 0")
    clouds = prepare(x0, x1, a, b)
    reg = absolute_reg(reg, reg_scale, clouds)
    eps = reg / clouds.unit
    marginals = _marginals(penalty, mass, a, b, clouds.unit)
    if tolerance is None:
        tolerance = 1e-4 if clouds.x.dtype == torch.float32 else 1e-7
    check_positive("tolerance", tolerance, infinite=True)
    solver = EntropicSolver(clouds, eps, marginals, backend, pairwise.Kept(memory))
    if warm_start is None:  # a sweep fits both potentials; half steps begin with that of x1
        start = Start(-clouds.rows, -clouds.columns if solver.sweeps else None)
    else:
        start = _start(warm_start, solver)
    steps = []
    if anneal if anneal is not None else (warm_start is None and eps < _ANNEAL_BELOW):
        steps = potentials.levels(eps, 1.0)
    check_every = _CHECK_EVERY_ON_DEVICE if x0.is_cuda else 1

    def run(solver: EntropicSolver, start: Start) -> Potentials:
        return potentials.solve(
            solver,
            start,
            tolerance=tolerance,
            max_iterations=max_iterations,
            relax=relax and marginals.balanced,
            check_every=check_every,
        )

    state = potentials.annealed(solver, start, steps, run)
    return _finish(solver, state, (x0, x1, a, b), reg, tolerance, on_failure)


# Without the look for transforms of torch, which is the caller's.
_sinkhorn: Any = vars(sinkhorn)["__wrapped__"]


@uncompiled
@first_order("sinkhorn_divergence", ("x0", "x1", "weights0", "weights1"))
def sinkhorn_divergence(
    x0: Tensor,
    x1: Tensor,
    reg: float,
    *,
    reg_scale: RegScale = "absolute",
    weights0: Tensor | None = None,
    weights1: Tensor | None = None,
    penalty: float | Sequence[float] | None = None,
    tolerance: float | None = None,
    max_iterations: int = 2000,
    backend: str | None = None,
) -> Tensor:
    """The debiased value V(x0, x1) - V(x0, x0) / 2 - V(x1, x1) / 2 + reg (|a| - |b|)^2 / 2.

    >= 0, zero for equal measures, differentiable once in points and weights, in forward mode and
    `torch.func.grad` and `jvp` too (Feydy et al. 2018, arXiv 1810.08278; unbalanced: Sejourne et
    al. 2019, arXiv 1910.12958). Arguments are those of
    `sinkhorn`; reg_scale="mean_cost" refers to the two clouds, and the same absolute
    regularisation serves all three values.

    Returns:
        float64 [].

    Raises:
        ValueError, TypeError, SinkhornError: as `sinkhorn`.
    """
    options: dict[str, Any] = {
        "penalty": penalty,
        "tolerance": tolerance,
        "max_iterations": max_iterations,
        "backend": backend,
    }
    cross: SinkhornResult = _sinkhorn(
        x0, x1, reg, reg_scale=reg_scale, weights0=weights0, weights1=weights1, **options
    )
    dtype = cross.clouds.x.dtype
    own = [
        _value_of_one(x.to(dtype), weights, cross.reg, side, **options)
        for side, (x, weights) in enumerate(((x0, weights0), (x1, weights1)))
    ]
    a, b = weights_of("weights0", weights0, x0), weights_of("weights1", weights1, x1)
    excess = cross.reg / 2 * (a.sum() - b.sum()).square()
    return cross.value - (own[0] + own[1]) / 2 + excess


def _value_of_one(
    x: Tensor,
    weights: Tensor | None,
    reg: float,
    side: int,
    penalty: float | Sequence[float] | None,
    tolerance: float | None,
    max_iterations: int,
    backend: str | None,
) -> Tensor:
    """V(x, x), from the fixed point of the averaged half step."""
    a = weights_of("weights0", weights, x)
    clouds = prepare(x, x, a, a)
    if isinstance(penalty, Sequence):
        penalty = (penalty[side],) * 2
    solver = EntropicSolver(
        clouds, reg / clouds.unit, _marginals(penalty, None, a, a, clouds.unit), backend
    )
    if tolerance is None:
        tolerance = 1e-4 if x.dtype == torch.float32 else 1e-7
    state = potentials.solve_symmetric(
        solver,
        -clouds.columns,
        tolerance=tolerance,
        max_iterations=max_iterations,
        check_every=_CHECK_EVERY_ON_DEVICE if x.is_cuda else 1,
    )
    return _finish(solver, state, (x, x, a, a), reg, tolerance, "raise").value


def absolute_reg(reg: float, reg_scale: str, clouds: Clouds) -> float:
    """The regularisation in units of the cost, or a ValueError that names the argument."""
    check_positive("reg", reg)
    if check_choice("reg_scale", reg_scale, ("absolute", "mean_cost")) == "absolute":
        return float(reg)
    mean = clouds.mean_cost
    if not mean > 0:
        raise ValueError(
            "reg_scale='mean_cost': all points of x0 and x1 are equal, so that no part of the mean "
            "cost is above zero; use reg_scale='absolute'"
        )
    return float(reg * mean)


def _marginals(
    penalty: float | Sequence[float] | None, mass: float | None, a: Tensor, b: Tensor, unit: float
) -> Marginals:
    total0, total1 = a.sum().item(), b.sum().item()
    if mass is not None:
        if penalty is not None:
            raise ValueError("mass, penalty: a plan is partial or unbalanced; give one of them")
        if not 0 < mass <= min(total0, total1) * (1 + 1e-12):
            raise ValueError(
                f"mass={mass}: expected more than 0 and at most the smaller sum of the weights, "
                f"{min(total0, total1):g}"
            )
        return Marginals(mass=mass)
    if penalty is None:
        pair = (math.inf, math.inf)
    elif isinstance(penalty, (int, float)):
        pair = (float(penalty), float(penalty))
    else:
        if len(penalty) != 2:
            raise ValueError(f"penalty: expected one number or two, got {len(penalty)}")
        pair = (float(penalty[0]), float(penalty[1]))
    if not all(rho >= 0 for rho in pair) or pair == (0, 0):
        raise ValueError(f"penalty={penalty}: expected numbers >= 0 that are not both 0")
    if pair == (math.inf, math.inf) and abs(total0 - total1) > 1e-6 * total0:
        raise ValueError(
            f"weights1: expected the sum {total0:g} of weights0 in a balanced problem, got "
            f"{total1:g}; normalise them, or give a penalty or mass"
        )
    return Marginals(rho=(pair[0] / unit, pair[1] / unit))


def _start(warm_start: SinkhornResult | Tensor, solver: EntropicSolver) -> Start:
    """From the potential g of a warm start, and F that fits it."""
    clouds = solver.clouds
    g = warm_start if isinstance(warm_start, Tensor) else warm_start.g
    if g.shape != clouds.columns.shape or not g.isfinite().all():
        raise ValueError(
            f"warm_start: expected finite potentials [{len(clouds.columns)}], one for each point "
            f"of x1, got {list(g.shape)}"
        )
    G = g.detach().to(clouds.columns) / clouds.unit - clouds.columns
    return Start(solver.fit(solver.log_sum_rows(G), 0)[0], G)


def _finish(
    solver: EntropicSolver,
    state: Potentials,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    reg: float,
    tolerance: float,
    on_failure: str,
) -> SinkhornResult:
    clouds, unit = solver.clouds, solver.clouds.unit
    f, g = (state.F + clouds.rows) * unit, (state.G + clouds.columns) * unit
    rows = (clouds.log_a + (state.F + state.level) / solver.eps + state.sums).exp()
    result = SinkhornResult(
        f=f,
        g=g,
        mass_multiplier=state.level.item() * unit,
        weights0=inputs[2].detach(),
        weights1=inputs[3].detach(),
        reg=reg,
        value=torch.zeros((), dtype=torch.float64, device=f.device),
        marginal_error=state.error,
        mass=rows.sum().item(),
        iterations=state.iterations,
        converged=state.error <= tolerance,
        row_marginal=rows,
        clouds=clouds,
        backend=solver.backend,
    )
    # The way back to inputs, of which nothing else is kept: they may be written to before backward.
    origins = [x.flatten()[:0].clone() for x in inputs if x.requires_grad]
    apply: Any = _Value.apply
    value: Tensor = apply(*inputs, result, solver.marginals, *origins)
    result = replace(result, value=value)
    if not result.converged and on_failure == "raise":
        digits = "float64" if clouds.x.dtype == torch.float32 else "a larger reg"
        raise SinkhornError(
            f"Sinkhorn: the marginal error is {result.marginal_error:.3g} after "
            f"{result.iterations} sweeps, above tolerance={tolerance:g}, at reg={reg:g} "
            f"({solver.eps:.3g} of the costs' scale). Raise max_iterations, tolerance or reg, use "
            f"{digits}, or take what there is with on_failure='return'",
            result,
        )
    return result


class _Value(torch.autograd.Function):
    """The dual value at the optimum and its gradient there (envelope theorem).

    With phi(f) = f (exact marginal) or rho (1 - exp(-f / rho)):

        V = <a, phi_0(f)> + <b, phi_1(g)> + level mass - reg (|P| - |a| |b|),
        dV/da_i = phi_0(f_i) - reg ((P 1)_i / a_i - |b|),
        dV/dx0_i = 2 sum_j P_ij (x0_i - x1_j).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x0: Tensor,
        x1: Tensor,
        a: Tensor,
        b: Tensor,
        result: SinkhornResult,
        marginals: Marginals,
        *origins: Tensor,
    ) -> Tensor:
        ctx.result, ctx.marginals = result, marginals
        ctx.save_for_backward(*origins)
        ctx.points = [(x.shape, x.dtype) for x in (x0, x1)]
        phi0, phi1 = _phi(result, marginals)
        value = a @ phi0 + b @ phi1 - result.reg * (result.mass - a.sum() * b.sum())
        if marginals.mass is not None:
            value = value + result.mass_multiplier * marginals.mass
        return value

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (gradient,) = gradients
        result: SinkhornResult = ctx.result
        c, reg, level = result.clouds, result.reg, result.mass_multiplier / result.reg
        eps = reg / c.unit
        needs = ctx.needs_input_grad
        phi = _phi(result, ctx.marginals)
        totals = result.weights1.sum(), result.weights0.sum()
        sides = (
            (c.x, c.y, result.scores(), result.f / c.unit - c.rows, c.log_a, c.shift),
            (c.y, c.x, result.column_scores(), result.g / c.unit - c.columns, c.log_b, -c.shift),
        )
        points: list[Tensor | None] = [None, None]
        weights: list[Tensor | None] = [None, None]
        for side, (x, y, (bias, scale), potential, log_weight, shift) in enumerate(sides):
            if not (needs[side] or needs[2 + side]):
                continue
            sums, means = pairwise.mean(x, y, bias, scale, y, backend=result.backend)
            ratio = (potential / eps + level + sums).exp()  # (P 1)_i / a_i
            if needs[side]:
                mass = (log_weight.exp() * ratio)[:, None]
                move = 2 * math.sqrt(c.unit) * mass * (x.double() - means.double() + shift)
                shape, dtype = ctx.points[side]
                points[side] = (gradient * move).reshape(shape).to(dtype)
            if needs[2 + side]:
                weights[side] = gradient * (phi[side] - reg * (ratio - totals[side]))
        return (*points, *weights, *[None] * (len(ctx.needs_input_grad) - 4))


def _phi(result: SinkhornResult, marginals: Marginals) -> tuple[Tensor, Tensor]:
    """phi_0(f) and phi_1(g) of `_Value`."""
    found = []
    for potential, rho in ((result.f, marginals.rho[0]), (result.g, marginals.rho[1])):
        rho = rho * result.clouds.unit
        if rho == math.inf:
            found.append(potential)
        else:
            found.append(-rho * torch.expm1(-potential / rho) if rho > 0 else 0 * potential)
    return found[0], found[1]


__all__ = ["SinkhornError", "SinkhornResult", "sinkhorn", "sinkhorn_divergence"]
