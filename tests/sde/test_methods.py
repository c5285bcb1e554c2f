"""Strong and weak orders against closed forms, by regression over four step sizes."""

import math
from functools import cache

import pytest
import torch

import fastgen
from fastgen.sde.methods import METHODS
from tests.support.sde_equations import Fine, gbm, order

STEPS = [8, 16, 32, 64]
fine = cache(Fine)
DIAGONAL = [
    (name, sde_type)
    for name, method in METHODS.items()
    for sde_type in method.sde_types
    if "diagonal" in method.strong
]


def slope(method, steps=STEPS, exact=None, path=None, **options):
    f, g, y0 = options.pop("f"), options.pop("g"), options.pop("y0")
    errors = []
    for count in steps:
        y = fastgen.sdeint(f, g, y0, [0.0, 1.0], method=method, steps=count, noise=path, **options)
        errors.append((y[-1] - exact).abs().mean())
    return order(errors, steps)


@pytest.mark.parametrize("noise_type", ["diagonal", "scalar"])
@pytest.mark.parametrize(("method", "sde_type"), DIAGONAL)
def test_strong_order_of_geometric_brownian_motion(method, sde_type, noise_type):
    f, g, exact = gbm(sde_type)
    shape = (400, 10) if noise_type == "diagonal" else (4000, 1)
    path = Fine(shape, 6, seed=1)
    y0 = torch.ones(shape, dtype=torch.float64)
    found = slope(
        method,
        exact=exact(path.w[-1], 1.0),
        path=path,
        f=f,
        g=g,
        y0=y0,
        noise_type=noise_type,
        sde_type=sde_type,
    )
    expected = METHODS[method].strong[noise_type]
    # The reversible Heun method is better than its proven order on this equation.
    assert found > expected - 0.25
    if method != "reversible_heun":
        assert found < expected + 0.25


@pytest.mark.parametrize("noise_type", ["diagonal", "additive"])
def test_srk_has_its_order_on_the_brownian_tree(noise_type):
    """Smaller steps follow the same motion with its areas, on grids that are not dyadic too."""
    y0 = torch.ones(100, 10, dtype=torch.float64)
    path = fastgen.BrownianPath(y0.shape, 0.0, 1.0, seed=6, levy_area=True, dtype=y0.dtype)
    if noise_type == "diagonal":
        f, g, solution = gbm("ito")
        exact = solution(path(0.0, 1.0), 1.0)
    else:  # dy = -y dt + t dW: the integral of exp(s - 1) s dW_s, from steps of second order in it
        f, g = (lambda t, y: -y), lambda t, y: t[:, None].expand_as(y)
        exact = fastgen.sdeint(
            f, g, y0, [0.0, 1.0], method="srk", steps=1024, noise=path, noise_type=noise_type
        )[-1]
    found = slope("srk", [6, 12, 24, 48], exact, path, f=f, g=g, y0=y0, noise_type=noise_type)
    assert 1.25 < found < (1.75 if noise_type == "diagonal" else 2.25)
    options = {"method": "srk", "steps": 12, "noise_type": noise_type}
    named = fastgen.sdeint(f, g, y0, [0.0, 1.0], noise="brownian", seed=6, **options)
    assert torch.equal(named, fastgen.sdeint(f, g, y0, [0.0, 1.0], noise=path, **options))


@pytest.mark.parametrize("method", [n for n, m in METHODS.items() if "additive" in m.strong])
def test_strong_order_with_additive_noise(method):
    # dy = -a y dt + b cos(t) dW: y(1) = e^-a y0 + integral of b e^(-a (1 - s)) cos(s) dW_s.
    a, b = 1.5, 0.8
    path = fine((500, 1), 13, seed=3)
    s = (torch.arange(path.count, dtype=torch.float64) + 0.5) * path.h
    kernel = b * torch.exp(-a * (1 - s)) * torch.cos(s)
    integral = (kernel[:, None, None] * path.w.diff(dim=0)).sum(0)
    y0 = torch.ones(500, 1, dtype=torch.float64)
    found = slope(
        method,
        exact=math.exp(-a) * y0 + integral,
        path=path,
        f=lambda t, y: -a * y,
        g=lambda t, y: (b * torch.cos(t))[:, None].expand_as(y),
        y0=y0,
        noise_type="additive",
        sde_type=METHODS[method].sde_types[0],
    )
    expected = METHODS[method].strong["additive"]
    assert found > expected - 0.25
    # Of a linear drift, methods whose deterministic order is 2 do better.
    if method in ("euler_maruyama", "milstein"):
        assert found < expected + 0.25


@pytest.mark.parametrize("method", [n for n, m in METHODS.items() if "general" in m.strong])
def test_strong_order_with_general_noise(method):
    # Commuting matrices: dy = sum_k diag(s_k) y dW_k has y_i = exp(sum_k s_ki W_k - ...).
    s = torch.tensor([[0.5, -0.3, 0.2], [0.1, 0.4, -0.6]], dtype=torch.float64)
    ito = METHODS[method].sde_types[0] == "ito"
    path = Fine((4000, 2), 6, seed=4)
    y0 = torch.ones(4000, 3, dtype=torch.float64)
    exact = torch.exp(path.w[-1] @ s - (0.5 * (s**2).sum(0) if ito else 0))
    found = slope(
        method,
        exact=exact,
        path=path,
        f=lambda t, y: 0 * y,
        g=lambda t, y: y[..., None] * s.T,
        y0=y0,
        noise_type="general",
        sde_type=METHODS[method].sde_types[0],
    )
    assert found > METHODS[method].strong["general"] - 0.25


@pytest.mark.slow
@pytest.mark.parametrize(("method", "sde_type"), DIAGONAL)
def test_weak_order_of_geometric_brownian_motion(method, sde_type):
    # Differences of means along shared paths: the error of a mean, without most of its noise.
    f, g, exact = gbm(sde_type)
    path = Fine((200_000, 1), 4, seed=5)
    y0 = torch.ones(200_000, 1, dtype=torch.float64)
    truth = exact(path.w[-1], 1.0)
    errors, steps = [], [2, 4, 8]
    for count in steps:
        y = fastgen.sdeint(
            f, g, y0, [0.0, 1.0], method=method, steps=count, noise=path, sde_type=sde_type
        )
        errors.append((y[-1] - truth).mean().abs())
    assert order(errors, steps) > METHODS[method].weak - 0.3


def test_moments_of_an_ornstein_uhlenbeck_process():
    # dy = -a y dt + b dW: mean e^-at y0, variance b^2 (1 - e^-2at) / 2a.
    a, b, t = 1.2, 0.7, [0.0, 0.5, 1.5]
    for method in ("euler_maruyama", "srk"):
        y = fastgen.sdeint(
            lambda t, y: -a * y,
            lambda t, y: torch.full_like(y, b),
            torch.full((200, 500), 2.0),
            t,
            method=method,
            noise_type="additive",
            dt=0.005,
            seed=9,
        )
        for at, value in zip(t[1:], y[1:].double(), strict=True):
            mean, variance = 2 * math.exp(-a * at), b**2 * (1 - math.exp(-2 * a * at)) / (2 * a)
            assert abs(value.mean() - mean) < 5 * math.sqrt(variance / value.numel()) + 0.008
            assert abs(value.var() / variance - 1) < 5 * math.sqrt(2 / value.numel()) + 0.008


def test_ito_and_stratonovich_solutions_agree_after_conversion():
    # Ito drift = Stratonovich drift + g g' / 2.
    path = Fine((300, 4), 9, seed=6)
    y0 = torch.full((300, 4), 0.3, dtype=torch.float64)

    def g(t, y):
        return torch.cos(y)

    def drift(t, y):
        return torch.sin(2 * y)

    ito = fastgen.sdeint(
        lambda t, y: drift(t, y) - torch.cos(y) * torch.sin(y) / 2,
        g,
        y0,
        [0.0, 1.0],
        method="srk",
        steps=512,
        noise=path,
    )[-1]
    for method in ("heun", "midpoint", "milstein", "euler_heun", "reversible_heun"):
        other = fastgen.sdeint(
            drift,
            g,
            y0,
            [0.0, 1.0],
            method=method,
            sde_type="stratonovich",
            steps=512,
            noise=path,
        )[-1]
        assert (other - ito).abs().mean() < 4e-3, method
    wrong = fastgen.sdeint(drift, g, y0, [0.0, 1.0], method="srk", steps=512, noise=path)[-1]
    assert (wrong - ito).abs().mean() > 0.05


@pytest.mark.parametrize("method", ["milstein", "heun", "milstein_derivative_free"])
def test_error_of_adaptive_steps_falls_with_the_tolerance(method):
    sde_type = "stratonovich" if method == "heun" else "ito"
    f, g, exact = gbm(sde_type)
    y0 = torch.ones(40, 2, dtype=torch.float64)
    w = fastgen.BrownianPath(y0.shape, seed=2, dtype=torch.float64)(0.0, 1.0)
    truth, errors = exact(w, 1.0), []
    for rtol in (1e-1, 1e-2, 1e-3):
        y = fastgen.sdeint(
            f,
            g,
            y0,
            [0.0, 0.3, 1.0],
            method=method,
            sde_type=sde_type,
            adaptive=True,
            rtol=rtol,
            atol=rtol,
            seed=2,
        )
        errors.append(float((y[-1] - truth).abs().mean()))
    # Of strong order 1 the error is tol^(2/3), up to what few large paths make of it.
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.5 * errors[1]
    assert errors[2] < 0.25 * errors[0]
