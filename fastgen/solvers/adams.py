"""Adams' methods on the probability-flow velocity: polynomials in t through past velocities.

A step to t = 0 at which the velocity is not to be had is the exponential step (`velocity`).
"""

from itertools import pairwise

from fastgen.common.checks import check_choice, check_whole
from fastgen.plans import Builder, Form
from fastgen.solvers.exponential import exponential_step
from fastgen.solvers.exponential_rk import lagrange_weights
from fastgen.solvers.history import Past, multistep, velocity_mean
from fastgen.solvers.registry import register


@register("adams_bashforth", order=2, source="Bashforth and Adams 1883, variable steps")
def adams_bashforth(
    p: Builder, times: list[float], *, order: int = 2, starter: str = "corrected"
) -> Form:
    """x_t = x_s + sum_j w_j u_j over the last ``order`` velocities, w_j exact for the grid.

    The first steps use the orders 1, 2, ... that their history allows; a first step of order 1
    leaves order 2 in all, and the error constants of a higher ``order``. starter="corrected"
    repeats it with the velocity at its end, for order 3 (`fastgen.solvers.history`).
    """
    check_whole("order", order, 1, 8)

    def step(x: Form, s: float, t: float, nodes: Past) -> Form:
        if not p.has_velocity(t):
            return exponential_step(p, x, dict(nodes)[s].data, s, t)
        return adams(x, nodes, s, t)

    return multistep(p, times, order, step, velocity_mean, starter)


@register(
    "adams_bashforth_moulton",
    order=3,
    evaluations="2 (PECE) or 1 (PEC)",
    source="Bashforth and Adams 1883, Moulton 1926, variable steps",
)
def adams_bashforth_moulton(
    p: Builder, times: list[float], *, order: int = 3, mode: str = "PECE"
) -> Form:
    """Predict with Adams-Bashforth of order - 1, correct with Adams-Moulton of ``order``.

    Predict: x*_t = x_s + sum w_j u_j; evaluate u*_t = u(x*_t, t); correct: x_t = x_s + v u*_t +
    sum v_j u_j, both integrals of Lagrange polynomials in t through the last order - 1
    velocities. "PECE" evaluates again at x_t, for the history; "PEC" keeps u*_t there.
    """
    check_whole("order", order, 1, 8)
    pece = check_choice("mode", mode, ("PEC", "PECE")) == "PECE"
    x, past = p.initial(), Past()
    for s, t in pairwise(times):
        if pece or not past:
            past.append((s, p.predict(x, s)))
        if not p.has_velocity(t):
            x = p.state(exponential_step(p, x, past[-1][1].data, s, t), t)
            continue
        nodes = past[-max(order - 1, 1) :]
        new = (t, p.predict(adams(x, nodes, s, t), t))
        x = p.state(adams(x, [*nodes, new] if order > 1 else [new], s, t), t)
        if not pece:
            past.append(new)
    return x


def adams(x: Form, nodes: Past, s: float, t: float) -> Form:
    """x_t from x_s, integrating the polynomial in t through the velocities at ``nodes``."""
    weights = adams_weights([time for time, _ in nodes], s, t)
    return sum((w * at.velocity for w, (_, at) in zip(weights, nodes, strict=True)), x)


def adams_weights(nodes: list[float], s: float, t: float) -> list[float]:
    """Integrals over [s, t] of the Lagrange polynomials on the nodes.

    Nodes are shifted to s and scaled by t - s, so the polynomials are well conditioned.
    """
    tau = [(node - s) / (t - s) for node in nodes]
    means = [1 / (k + 1) for k in range(len(nodes))]
    return [(t - s) * w for w in lagrange_weights(tau, means)]
