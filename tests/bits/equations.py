"""The interfaces of torchdiffeq and torchsde."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from fastgen.integrations import torchdiffeq, torchsde
from tests.bits.problems import F64, Module, normal, rows, squash
from tests.bits.registry import group, reference


def spiral(t, y):
    return squash(3 * y.flip(-1)) - 0.2 * y + 0.1 * (rows(t, y) if t.ndim else t)


VARYING = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun", "tsit5")
FIXED = (
    "euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", "fixed_adams",
)  # fmt: skip


@group("torchdiffeq")
def differential_equations():
    y0, t = normal(3, 2, dtype=F64), torch.linspace(0, 2, 7, dtype=F64)
    for method in (None, *VARYING, *FIXED, "scipy_solver"):
        loose = {"method": method, "rtol": 1e-3, "atol": 1e-4}
        call = partial(torchdiffeq.odeint, spiral, y0, **loose)
        for name, times in {"ahead": t, "back": t.flip(0), "two": t[[0, -1]]}.items():
            yield f"{method}/{name}", partial(call, times)
        if reference() and method not in ("dopri5", "rk4"):
            continue
        yield f"{method}/float32", partial(torchdiffeq.odeint, spiral, y0.float(), t, **loose)
        pair = (y0, torch.ones(3, dtype=F64))
        yield f"{method}/tuple", partial(torchdiffeq.odeint, both, pair, t, **loose)
        for options in (
            {"step_size": 0.06}, {"step_size": 0.06, "interp": "cubic", "perturb": True},
            {"first_step": 0.01}, {"step_t": torch.tensor([0.5]), "jump_t": torch.tensor([1.1])},
            {"step": "per_sample"}, {"controller": "pi"}, {"max_step": 0.05}, {"norm": 1},
        ):  # fmt: skip
            yield f"{method}/{options}", partial(call, t, options=options)
        yield f"{method}/gradient", partial(slopes, torchdiffeq.odeint, method)
        yield f"{method}/adjoint", partial(slopes, torchdiffeq.odeint_adjoint, method)
        yield f"{method}/event", partial(event, method)


def both(t, state):
    y, s = state
    return spiral(t, y), -s * y.sum(1) / 4


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Module(F64)

    def forward(self, t, y):
        return self.inner(y, t) - y


def slopes(solve, method):
    f, y0 = Field(), normal(3, 2, dtype=F64).requires_grad_()
    times = torch.linspace(0, 1, 4, dtype=F64).requires_grad_()
    ys = solve(f, y0, times, method=method, rtol=1e-3, atol=1e-4)
    return [ys, torch.autograd.grad(ys.square().sum(), [y0, times, *f.parameters()])]


def event(method):
    def f(t, y):
        return torch.stack([y[1], -y[0]])

    y0 = torch.tensor([1.0, 0.3], dtype=F64).requires_grad_()
    options = {} if method not in FIXED else {"options": {"step_size": 0.1}}
    t, ys = torchdiffeq.odeint_event(
        f,
        y0,
        torch.tensor(0.0, dtype=F64),
        event_fn=lambda t, y: y[0] - 0.2,
        rtol=1e-4,
        atol=1e-5,
        method=method,
        **options,
    )
    return [t, ys, torch.autograd.grad(t + ys[-1].sum(), y0)]


class Equation(nn.Module):
    """An equation of any noise type with d = 3."""

    def __init__(self, noise_type, sde_type):
        super().__init__()
        self.noise_type, self.sde_type, self.a = (
            noise_type,
            sde_type,
            nn.Parameter(torch.tensor(0.7)),
        )
        self.m = {"diagonal": 3, "scalar": 1}.get(noise_type, 2)
        self.double()

    def f(self, t, y):
        return squash(self.a * y) - t

    def g(self, t, y):
        if self.noise_type == "additive":
            return (self.a * (1 - 0.3 * t) * torch.ones(len(y), 3, 2).to(y)).tril()
        g = 0.3 * squash(y) + 0.1 * self.a
        parts = [g * k for k in (1, 0.5)][: self.m]
        return g if self.noise_type == "diagonal" else torch.stack(parts, -1)

    def h(self, t, y):
        return -y


def moved(method, noise, kind, motion=None, **options):
    equation, y0 = Equation(noise, kind), normal(4, 3, dtype=F64).requires_grad_()
    ts = torch.tensor([0.0, 0.25, 1.0], dtype=F64)
    bm = None
    if motion is not None:
        area = "space-time" if method == "srk" else "none"
        size = (4, equation.m)
        bm = torchsde.BrownianInterval(
            0.0, 1.0, size, dtype=F64, entropy=7, levy_area_approximation=area
        )
    call = {"dt": 1 / 8, "method": method, "bm": bm, **options}
    ys = torchsde.sdeint(equation, y0, ts, **call)
    total = sum(y.square().sum() for y in ys) if isinstance(ys, tuple) else ys.square().sum()
    return [ys, torch.autograd.grad(total, [y0, equation.a])]


@group("torchsde")
def stochastic_equations():
    methods = {
        "ito": ("euler", "milstein", "srk", None),
        "stratonovich": (
            "milstein",
            "heun",
            "euler_heun",
            "midpoint",
            "reversible_heun",
            "log_ode",
        ),
    }
    for kind, names in methods.items():
        for method in names:
            for noise in ("diagonal", "scalar", "additive", "general"):
                call, name = partial(moved, method, noise, kind), f"{kind}/{method}/{noise}"
                yield f"{name}/drawn", partial(call, entropy=5)
                if reference():
                    continue
                yield f"{name}/generator", call
                yield f"{name}/motion", partial(call, True)
                yield f"{name}/adaptive", partial(call, adaptive=True, rtol=0.1, atol=0.1)
                yield f"{name}/logqp", partial(call, logqp=True, entropy=5)
    yield "adjoint", adjoint
    for area in ("none", "space-time"):
        yield f"motion/{area}", partial(queries, area)


def adjoint():
    equation, y0 = Equation("diagonal", "stratonovich"), normal(4, 3, dtype=F64).requires_grad_()
    ys = torchsde.sdeint_adjoint(
        equation,
        y0,
        torch.tensor([0.0, 0.5, 1.0], dtype=F64),
        method="reversible_heun",
        adjoint_method="adjoint_reversible_heun",
        dt=1 / 8,
        entropy=3,
    )
    return [ys, torch.autograd.grad(ys.square().sum(), [y0, equation.a])]


def queries(area):
    kinds = (torchsde.BrownianInterval, torchsde.BrownianTree, torchsde.BrownianPath)
    times = ((0.0, 0.5), (0.5, 0.51), (0.1, 0.9))
    interval = kinds[0](0.0, 1.0, (3, 2), F64, entropy=4, levy_area_approximation=area)
    found = [interval(s, t, return_U=area != "none") for s, t in times]
    others = [kinds[1](0.0, torch.zeros(3, 2), entropy=4), kinds[2](0.0, torch.zeros(3, 2))]
    return [found, [motion(s, t) for motion in others for s, t in times]]
