"""What a type checker knows of the public calls; `make lint` checks this file.

mypy is strict here: an ignored error that is none is an error itself, so each
``type: ignore`` says that mypy refuses its line.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import assert_type

import fastgen
from fastgen import solvers, timesteps
from fastgen.couplings import Assignment, assign
from fastgen.likelihood.flow import LogLikelihood
from fastgen.ode import Solution
from fastgen.plans import Builder, Form, Plan
from fastgen.schedules import CosineVP


def network(x: Tensor, t: Tensor) -> Tensor:
    """A network of noise."""
    return torch.tanh(x)


MODEL = fastgen.Model(network, CosineVP(), "noise")
SHAPE = (2, 3)


def right() -> None:
    """Calls that are right, and what they return."""
    stochastic = solvers.ddim(eta=0.5)
    grid = timesteps.karras(rho=5)
    plan = fastgen.plan(stochastic, MODEL.schedule, 4, timesteps=grid)
    assert_type(plan, Plan)
    assert_type(stochastic.order, int | None)
    assert_type(solvers.names(order=2, stochastic=False), list[str])

    assert_type(fastgen.sample(MODEL, SHAPE, solvers.unipc(order=3), steps=4), Tensor)
    assert_type(fastgen.sample(MODEL, SHAPE, "ddim", 4, eta=0.5, trajectory=False), Tensor)
    assert_type(
        fastgen.sample(MODEL, SHAPE, stochastic, 4, timesteps=grid, trajectory=True),
        tuple[Tensor, Tensor],
    )
    assert_type(fastgen.sample(MODEL, SHAPE, solvers.dopri5(rtol=1e-3)), Tensor)
    sampler = fastgen.Sampler(MODEL, plan)
    assert_type(sampler(SHAPE, seed=1), Tensor)
    assert_type(sampler(SHAPE, trajectory=True), tuple[Tensor, Tensor])

    x = torch.zeros(SHAPE)
    assert_type(fastgen.log_likelihood(MODEL, x, method=solvers.bosh3(rtol=1e-2)), Tensor)
    assert_type(fastgen.log_likelihood(MODEL, x, rtol=1e-2, return_solution=True), LogLikelihood)
    assert_type(fastgen.log_likelihood(MODEL, x, rtol=1e-2, trajectory=True), tuple[Tensor, Tensor])
    assert_type(
        fastgen.sample(MODEL, SHAPE, "dopri5", callback=lambda step: print(step.data)), Tensor
    )
    assert_type(fastgen.invert(MODEL, x, solvers.heun, 4), fastgen.Inversion)
    decay: Callable[[Tensor, Tensor], Tensor] = lambda t, y: -y  # noqa: E731
    times = [0.0, 1.0]
    assert_type(fastgen.odeint(decay, x, times, method=solvers.tsit5(atol=1e-4)), Tensor)
    assert_type(fastgen.odeint(decay, x, times, return_solution=True), Solution)
    assert_type(fastgen.sdeint(decay, decay, x, times, steps=2), Tensor)
    assert_type(assign(x, x + 1), Assignment)


def wrong() -> list[Callable[[], object]]:
    """Calls that are wrong, for mypy and when they are made."""
    return [
        lambda: solvers.ddim(eta="x"),  # type: ignore[arg-type]
        lambda: solvers.ddim(etta=1),  # type: ignore[call-arg]
        lambda: solvers.ddim(0.5),  # type: ignore[call-arg]
        lambda: solvers.unipc(order="three"),  # type: ignore[arg-type]
        lambda: solvers.euler_churn(eta=1.0),  # type: ignore[call-arg]
        lambda: solvers.dopri5(tolerance=1.0),  # type: ignore[call-arg]
        lambda: timesteps.karras(rho="7"),  # type: ignore[arg-type]
        lambda: timesteps.uniform(rho=7),  # type: ignore[call-arg]
        lambda: fastgen.sample(MODEL, SHAPE, timesteps.karras, 4),  # type: ignore[call-overload]
    ]


def of_ones_own() -> solvers.Solver[...]:
    """A user's solver is typed as the library's are: its name has the function's options."""

    @solvers.register("for_the_typing_test", order=1, source="this test")
    def own(p: Builder, times: list[float], *, power: int = 1) -> Form:
        x = p.initial()
        return p.state(p.denoise(x, times[0]), times[-1])

    if TYPE_CHECKING:
        own(power="2")  # type: ignore[arg-type]
    return own(power=2)
