"""STORK: stabilised Runge-Kutta over many virtual stages between two network evaluations.

The flow is written dx/dt = a(t) x + b(t) e(x, t): with e the velocity, a = 0 and b = 1; with e the
noise prediction, a = alpha' / alpha and b = g^2 / (2 sigma). Within a step a Taylor polynomial in t
takes the place of e. Its derivatives are those of the polynomial through the last evaluations. A
stabilised Runge-Kutta method integrates the linear equation that is left: its stages are many, but
they do not call the network (Tan et al. 2025, arXiv 2505.24210).
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fastgen.common.checks import check_choice, check_whole
from fastgen.plans import Builder, Form
from fastgen.solvers.adams import adams_weights
from fastgen.solvers.exponential import exponential_step
from fastgen.solvers.exponential_rk import finite, lagrange_weights
from fastgen.solvers.registry import register


@register(
    "stork",
    order=2,
    evaluations="1 (2 in the first step)",
    source="Tan et al. 2025, STORK, arXiv 2505.24210; its code, STORKScheduler",
)
def stork(
    p: Builder,
    times: list[float],
    *,
    order: int = 4,
    derivatives: int = 2,
    stages: int = 50,
    prediction: str = "velocity",
) -> Form:
    """Taylor polynomials of e with ``derivatives`` derivatives; see the module.

    order 2 sweeps with the Runge-Kutta-Gegenbauer method (`gegenbauer`); order 4 with ROCK4. In
    velocity form ROCK4 integrates a polynomial of degree 3 or less exactly, whatever its number
    of stages: that is Adams-Bashforth through the last derivatives + 1 velocities, and done so
    here. In noise form order 4 is refused: ``deis`` is its limit of many stages, exact in the
    linear part. The first step, with one more evaluation, is Euler's to the middle and
    Adams-Bashforth's from there; polynomials are linear until the history is there.

    On uneven grids the authors' code takes difference formulas of even ones (for the first
    derivative, and for all three with ``derivatives`` = 3); here they are those of the grid.
    """
    check_whole("order", order, 2, 4)
    check_whole("derivatives", derivatives, 2, 3)
    check_whole("stages", stages, 3)
    noise = check_choice("prediction", prediction, ("velocity", "noise")) == "noise"
    if order == 3 or (noise and order == 4):
        raise ValueError(
            f"order={order} with prediction={prediction!r}: expected 2, or 4 in velocity form; "
            "solver 'deis' is what order 4 in noise form tends to"
        )

    def evaluate(x: Form, t: float) -> Form:
        return p.epsilon(x, t) if noise else p.velocity(x, t)

    def linear(t: float) -> tuple[float, float]:
        if not noise:
            return 0.0, 1.0
        return p.schedule.drift(t), p.schedule.diffusion_squared(t) / (2 * p.sigma(t))

    def slope(x: Form, e: Form, t: float) -> Form:
        a, b = linear(t)
        return a * x + b * e

    x = p.initial()
    past: list[tuple[float, Form]] = []
    for s, t in pairwise(times):
        if not p.has_velocity(t) or (noise and not finite(p, s)):
            x = p.state(exponential_step(p, x, p.denoise(x, s), s, t), t)
            continue
        past.append((s, evaluate(x, s)))
        if len(past) == 1:
            half, middle, first = (t - s) / 2, (s + t) / 2, slope(x, past[0][1], s)
            x = p.let(x + half * first)
            second = slope(x, evaluate(x, middle), middle)
            x = p.state(x + half * (1.5 * second - 0.5 * first), t)
            continue
        nodes = past[-2:] if len(past) <= derivatives else past[-derivatives - 1 :]
        grid = [time for time, _ in nodes]
        if order == 4:
            kept, weights = 1.0, adams_weights(grid, s, t)
        else:
            kept, weights = gegenbauer(linear, grid, s, t, stages)
        step = sum((w * e for w, (_, e) in zip(weights, nodes, strict=True)), kept * x)
        x = p.state(step, t)
    return x


def gegenbauer(
    linear: Callable[[float], tuple[float, float]],
    grid: list[float],
    s: float,
    t: float,
    stages: int,
) -> tuple[float, list[float]]:
    """The factors of x_s and of the values at ``grid`` in one step for dx/dt = a x + b e.

    The second-order Runge-Kutta-Gegenbauer method (Skaras et al. 2021, J. Comput. Phys. 425,
    109879), stable for -h a up to about stages^2 / 3: with w = 6 / ((stages + 4) (stages - 1)),

        Y_1 = x + w h f_0,
        Y_j = mu Y_{j-1} + nu Y_{j-2} + (1 - mu - nu) x + mu w h f(Y_{j-1}, s + c_{j-1} h)
              - mu w (1 - j (j + 1) b_{j-1} / 2) h f_0,
        mu = (2 j + 1) b_j / (j b_{j-1}), nu = -(j + 1) b_j / (j b_{j-2}), b_0 = 1, b_1 = 1/3,
        b_j = 4 (j - 1) (j + 4) / (3 j (j + 1) (j + 2) (j + 3)),
        c_1 = w, c_j = (j - 1) (j + 4) / ((stages - 1) (stages + 4)).

    STORK's code has the nodes of the Legendre method, c_j = (j^2 + j - 2) / (stages^2 + stages -
    2), with these weights: sum b_j c_j is then 0.49 with 50 stages, of first order. Here it is 1/2.
    """
    h, total = t - s, (stages - 1) * (stages + 4)
    tau = [(time - s) / h for time in grid]

    def f(y: NDArray[np.float64], c: float) -> NDArray[np.float64]:
        a, b = linear(s + c * h)
        e = lagrange_weights(tau, [c**k for k in range(len(tau))])
        return a * y + b * np.array([0.0, *e])

    def b(j: int) -> float:
        if j < 2:
            return 1.0 if j == 0 else 1 / 3
        return 4 * (j - 1) * (j + 4) / (3 * j * (j + 1) * (j + 2) * (j + 3))

    x = np.array([1.0] + [0.0] * len(grid))
    w, start = 6 / total, f(x, 0.0)
    older, y, c = x, x + w * h * start, w
    for j in range(2, stages + 1):
        mu, nu = (2 * j + 1) * b(j) / (j * b(j - 1)), -(j + 1) * b(j) / (j * b(j - 2))
        change = f(y, c) - (1 - j * (j + 1) * b(j - 1) / 2) * start
        older, y = y, mu * y + nu * older + (1 - mu - nu) * x + mu * w * h * change
        c = (j - 1) * (j + 4) / total
    return float(y[0]), y[1:].tolist()
