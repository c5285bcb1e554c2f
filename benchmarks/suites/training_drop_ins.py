"""The drop-ins for torchcfm and torchdiffeq beside the originals, in one run, on one thread.

The same code under two imports. Matchers draw the same noise from torch's generator; "contract"
is the drop-in with the library's own noise. The solver's time is that around a field that costs
nearly nothing; gradients are of a small network's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers import installed
from benchmarks.tools.harness import Case, Provider, measured
from benchmarks.tools.rows import Row
from fastgen.integrations import torchcfm as matchers
from fastgen.integrations import torchdiffeq as integrators

SUITE = "training_drop_ins"
Options = dict[str, Any]
OT = "ExactOptimalTransportConditionalFlowMatcher"


def matching(name: str, shape: tuple[int, ...]) -> Case:
    """One training batch of a matcher."""
    generator = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(shape, generator=generator) for _ in range(2))

    def run(kind: Any, **options: Any) -> Callable[[], Tensor]:
        matcher = getattr(kind, name)(0.5, **options)
        return lambda: matcher.sample_location_and_conditional_flow(x0, x1)[1]

    providers = [
        Provider("fastgen", run(matchers)),
        Provider("fastgen, contract", run(matchers, noise="contract", seed=0)),
    ]
    peer = installed("torchcfm")
    if peer is not None:
        providers.append(Provider("torchcfm", run(peer), "torchcfm"))
    return Case(SUITE, f"matcher {name}", shape, torch.float32, providers)


class Field(nn.Module):
    """A small network, or y itself turned round."""

    turn: Tensor

    def __init__(self, network: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))
        self.network = network
        self.register_buffer("turn", torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The slope."""
        value: Tensor = self.layers(y**3) if self.network else y @ self.turn
        return value


def solving(name: str, options: Options, tolerance: float) -> Case:
    """A solve without gradients."""
    y0, t, f = torch.ones(256, 2), torch.linspace(0, 5, 50), Field(False)

    def run(kind: Any) -> Callable[[], Tensor]:
        def solve() -> Tensor:
            with torch.no_grad():
                found: Tensor = kind.odeint(f, y0, t, **options)
            return found

        return solve

    return _beside("odeint " + name, run, tolerance, "odeint")


class Stiff(nn.Module):
    """Rates of 1 and of 300, turned into each other."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The slope."""
        fast = 300 * (torch.cos(y[:, :1]) - y[:, 1:])
        return torch.cat([-y[:, :1] + 0.1 * y[:, 1:], fast], 1)


def implicit(method: str) -> Case:
    """A stiff solve by a method that torchdiffeq has in its main branch, after 0.2.5."""
    y0, t, f = torch.ones(64, 2, dtype=torch.float64), torch.linspace(0, 1, 5), Stiff()
    options = {"method": method, "options": {"step_size": 0.05}}

    def run(kind: Any) -> Callable[[], Tensor]:
        def solve() -> Tensor:
            with torch.no_grad():
                found: Tensor = kind.odeint(f, y0, t, **options)
            return found

        return solve

    providers = [Provider("fastgen", run(integrators))]
    peer = installed("torchdiffeq")
    known = peer and importlib.import_module("torchdiffeq._impl.odeint").SOLVERS
    if known and method in known:
        providers.append(Provider("torchdiffeq, main", run(peer), "torchdiffeq"))
    name = f"odeint {method}, 20 steps"
    return Case(SUITE, name, (64, 2), torch.float64, providers, 1e-5)


def dense(times: int) -> Case:
    """A solution as a function of time, and its values at so many times one by one."""
    y0, t, f = torch.ones(256, 2), torch.linspace(0, 4.9, times), Field(False)
    ends = torch.tensor(0.0), torch.tensor(5.0)

    def run(kind: Any) -> Callable[[], Tensor]:
        def solve() -> Tensor:
            with torch.no_grad():
                solution = kind.odeint_dense(f, y0, *ends, rtol=1e-5, atol=1e-6)
                return torch.stack([solution(time) for time in t])

        return solve

    return _beside(f"odeint dense, {times} values", run, 1e-3, "odeint_dense")


def training(name: str, options: Options) -> Case:
    """Forward and backward of the adjoint, the gradient of the first weights."""
    y0, t, f = torch.ones(20, 2), torch.linspace(0, 0.5, 10), Field(True)

    def run(kind: Any) -> Callable[[], Tensor]:
        def step() -> Tensor:
            f.zero_grad()
            getattr(kind, name)(f, y0, t, **options).square().mean().backward()
            found = f.layers[0].weight.grad
            assert isinstance(found, Tensor)
            return found.clone()

        return step

    return _beside(f"gradient, {name}", run, 1e-3, name)


def _beside(
    name: str, run: Callable[[Any], Callable[[], Tensor]], tolerance: float, needs: str
) -> Case:
    providers = [Provider("fastgen", run(integrators))]
    peer = installed("torchdiffeq")
    if peer is not None and hasattr(peer, needs):
        providers.append(Provider("torchdiffeq", run(peer), "torchdiffeq"))
    shape = (256, 2) if name.startswith("odeint ") else (20, 2)
    return Case(SUITE, name, shape, torch.float32, providers, tolerance)


def cases(quick: bool) -> list[Case]:
    """All cases."""
    shapes = [(256, 2)] if quick else [(256, 2), (1024, 2), (128, 3, 32, 32)]
    names = ["ConditionalFlowMatcher", OT]
    if not quick:
        names.append("SchrodingerBridgeConditionalFlowMatcher")
    adaptive = {"rtol": 1e-5, "atol": 1e-6}
    return [
        *(matching(name, shape) for name in names for shape in shapes),
        solving("dopri5", adaptive, 1e-3),
        solving("rk4", {"method": "rk4", "options": {"step_size": 0.05}}, 1e-4),
        dense(100),
        *(implicit(method) for method in ("implicit_euler", "trbdf2", "radauIIA5")),
        training("odeint", adaptive),
        training("odeint_adjoint", adaptive),
    ]


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    yield from measured(cases(quick), quick)
