"""EDM's samplers beside Algorithm 2 and table 1 of Karras et al. 2022, written out in x and t."""

import itertools
import math
import types

import numpy as np
import pytest
import torch

import fastgen
from fastgen.integrations.edm import ablation_sampler, edm_sampler
from fastgen.kernels import Stream

SHAPE = (3, 6)


class Net:
    """A denoiser with the attributes of EDM's networks."""

    def __init__(self, sigma_min=0.0, sigma_max=math.inf, grid=None):
        self.sigma_min, self.sigma_max, self.grid = sigma_min, sigma_max, grid
        self.calls = []

    def round_sigma(self, sigma):
        sigma = torch.as_tensor(sigma)
        if self.grid is None:
            return sigma
        nearest = (sigma.reshape(-1, 1) - self.grid).abs().argmin(1)
        return self.grid[nearest].reshape(sigma.shape)

    def __call__(self, x, sigma, class_labels=None):
        assert sigma.ndim == 0
        self.calls.append((x.dtype, sigma.item()))
        shift = 0.0 if class_labels is None else class_labels
        inner = torch.tanh(x / (sigma**2 + 1).sqrt() + torch.sin(sigma.log() / 2) + shift)
        return 0.7 * inner + 0.3 * x / (sigma**2 + 1)


def latents():
    return fastgen.randn(SHAPE, seed=1)


class SameNoise:
    def __init__(self):
        self.generator = torch.Generator().manual_seed(2)

    def __call__(self, x):
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


def close(mine, theirs, tolerance=1e-10):
    assert ((mine - theirs).abs().max() / theirs.abs().max()).item() < tolerance


@pytest.mark.parametrize(
    "churn", [{}, {"S_churn": 8.0, "S_min": 0.1, "S_max": 30.0, "S_noise": 1.01}]
)
@pytest.mark.parametrize("rounds", [None, 400, 8])  # to so few levels that some are equal
def test_algorithm_2(churn, rounds):
    grid = None if rounds is None else torch.logspace(-3, 2, rounds, dtype=torch.float64)
    net, labels = Net(sigma_max=70.0, grid=grid), torch.tensor(0.2)
    y = edm_sampler(net, latents(), labels, SameNoise(), num_steps=10, **churn)
    assert y.dtype == torch.float64
    t = [(70 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 70 ** (1 / 7))) ** 7 for i in range(10)]
    t = [*net.round_sigma(torch.tensor(t, dtype=torch.float64)).tolist(), 0.0]
    x, noise = latents().double() * t[0], SameNoise()

    def d(x, s):
        return (x - net(x, torch.tensor(s, dtype=torch.float64), labels)) / s

    s_churn, s_noise = churn.get("S_churn", 0.0), churn.get("S_noise", 1.0)
    for i in range(10):
        inside = churn.get("S_min", 0.0) <= t[i] <= churn.get("S_max", math.inf)
        gamma = min(s_churn / 10, math.sqrt(2) - 1) if inside else 0.0
        up = net.round_sigma(torch.tensor(t[i] * (1 + gamma), dtype=torch.float64)).item()
        x = x + math.sqrt(up**2 - t[i] ** 2) * s_noise * noise(x)
        slope = d(x, up)
        euler = x + (t[i + 1] - up) * slope
        if t[i + 1] > 0:
            euler = x + (t[i + 1] - up) * (slope + d(euler, t[i + 1])) / 2
        x = euler
    close(y, x)


def textbook(net, x, levels, schedule, scaling, solver, alpha, betas, noise, churn):
    """x' and t' of the appendix, in x itself, with derivatives by autograd."""
    beta_d, beta_min = betas

    def sigma(t):
        if schedule == "vp":
            return torch.expm1(beta_d * t**2 / 2 + beta_min * t).sqrt()
        return t if schedule == "linear" else t.sqrt()

    def inverse(s):
        if schedule == "vp":
            root = (beta_min**2 + 2 * beta_d * torch.log1p(s**2)).sqrt()
            return (root - beta_min) / beta_d
        return s if schedule == "linear" else s**2

    def scale(t):
        return 1 / (1 + sigma(t) ** 2).sqrt() if scaling == "vp" else torch.ones_like(t)

    def derivative(f, t):
        t = t.clone().requires_grad_()
        return torch.autograd.grad(f(t) + 0 * t, t)[0]

    def slope(x, t):
        s, level, growth = scale(t), sigma(t), derivative(sigma, t) / sigma(t)
        return (growth + derivative(scale, t) / s) * x - growth * s * net(x / s, level)

    times = [inverse(torch.tensor(v, dtype=torch.float64)) for v in levels]
    times.append(torch.tensor(0.0, dtype=torch.float64))
    x = x * levels[0] * scale(times[0])
    for i, (here, there) in enumerate(itertools.pairwise(times)):
        up = inverse(sigma(here) * (1 + churn))
        x = scale(up) / scale(here) * x
        x = x + (sigma(up) ** 2 - sigma(here) ** 2).clamp(min=0).sqrt() * scale(up) * noise(x)
        h = there - up
        d = slope(x, up)
        if solver == "euler" or i == len(levels) - 1:
            x = x + h * d
        else:
            d2 = slope(x + alpha * h * d, up + alpha * h)
            x = x + h * ((1 - 1 / (2 * alpha)) * d + d2 / (2 * alpha))
    return x


def levels_of(discretization, n):
    """Table 1 with its default range."""
    i = np.arange(n) / (n - 1)
    if discretization == "edm":
        return (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, (0.002, 80.0)
    if discretization == "ve":
        return np.sqrt(100.0**2 * (0.02**2 / 100.0**2) ** i), (0.02, 100.0)
    if discretization == "vp":
        t = 1 + i * (1e-3 - 1)
        s = np.sqrt(np.expm1(19.1 * t**2 / 2 + 0.1 * t))
        return s, (s[-1], s[0])
    u, chain = [0.0], [0.0]
    for j in range(1000, 0, -1):
        bar = [math.sin(math.pi / 2 * k / 1000 / 1.008) ** 2 for k in (j - 1, j)]
        u.append(math.sqrt((u[-1] ** 2 + 1) / max(bar[0] / bar[1], 0.001) - 1))
    chain = np.array(u[::-1])
    chain = chain[(chain >= 0.002) & (chain <= 81)]
    picks = [round((len(chain) - 1) / (n - 1) * k) for k in range(n)]
    return chain[picks], (0.002, 81.0)


@pytest.mark.parametrize(
    ("discretization", "schedule", "scaling", "solver", "alpha", "churn"),
    [
        ("edm", "linear", "none", "heun", 1.0, 0.0),
        ("vp", "vp", "vp", "euler", 1.0, 0.0),
        ("vp", "vp", "vp", "heun", 1.0, 2.0),
        ("vp", "linear", "vp", "heun", 0.5, 0.0),
        ("ve", "ve", "none", "heun", 1.0, 2.0),
        ("ve", "ve", "none", "euler", 1.0, 0.0),
        ("iddpm", "linear", "none", "heun", 2 / 3, 2.0),
        ("iddpm", "vp", "none", "heun", 0.5, 0.0),
        ("edm", "ve", "vp", "heun", 2 / 3, 2.0),
    ],
)
def test_ablations(discretization, schedule, scaling, solver, alpha, churn):
    n, net = 8, Net()
    y = ablation_sampler(
        net, latents(), None, SameNoise(), n, solver=solver, discretization=discretization,
        schedule=schedule, scaling=scaling, alpha=alpha, S_churn=churn,
    )  # fmt: skip
    levels, (low, high) = levels_of(discretization, n)
    a, b = math.log1p(low**2), math.log1p(high**2)
    beta_d = 2 * (a / 1e-3 - b) / (1e-3 - 1)
    betas = beta_d, b - beta_d / 2
    gamma = min(churn / n, math.sqrt(2) - 1)
    x = latents().double()
    theirs = textbook(
        net, x, levels.tolist(), schedule, scaling, solver, alpha, betas, SameNoise(), gamma
    )
    close(y, theirs)


def test_noise_is_asked_for_in_every_step_and_torchs_by_default():
    state = torch.get_rng_state()
    torch.manual_seed(4)
    y = edm_sampler(Net(), latents(), num_steps=6, S_churn=4)
    after = torch.rand(1)
    torch.manual_seed(4)
    again = edm_sampler(Net(), latents(), randn_like=torch.randn_like, num_steps=6, S_churn=4)
    assert torch.equal(y, again)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(4)
    edm_sampler(Net(), latents(), num_steps=6)
    assert torch.equal(torch.rand(1), after)
    torch.set_rng_state(state)


def test_contract_noise_and_float32():
    net = Net()
    options = {"num_steps": 6, "S_churn": 4, "noise": "contract", "seed": 5}
    y = edm_sampler(net, latents(), **options)
    draws = iter(range(1, 100))

    def given(x):
        return fastgen.randn(SHAPE, seed=5, draw=next(draws), stream=Stream.SOLVER, dtype=x.dtype)

    close(y, edm_sampler(net, latents(), randn_like=given, num_steps=6, S_churn=4))
    net.calls.clear()
    single = edm_sampler(net, latents(), dtype=torch.float32, **options)
    assert single.dtype == torch.float32
    assert {dtype for dtype, _ in net.calls} == {torch.float32}
    close(single.double(), y, 1e-5)


def test_errors_name_the_argument():
    for options, match in (
        ({"solver": "huen"}, "solver='huen'.*heun"),
        ({"discretization": "edn"}, "discretization"),
        ({"schedule": "vpp"}, "schedule"),
        ({"scaling": "ve"}, "scaling"),
        ({"alpha": 0.0}, "alpha"),
        ({"num_steps": 0}, "num_steps"),
        ({"S_churn": -1}, "S_churn"),
        ({"epsilon_s": 0.0}, "epsilon_s"),
        ({"sigma_min": 90.0}, "sigma_min=90.0"),
        ({"noise": "comfyui"}, "noise"),
        ({"seed": 3}, "seed=3"),
        ({"discretization": "iddpm", "sigma_min": 50.0, "sigma_max": 50.01}, "iddpm"),
    ):
        with pytest.raises(ValueError, match=match):
            ablation_sampler(Net(), latents(), **options)
    with pytest.raises(AttributeError, match="sigma_min"):
        edm_sampler(types.SimpleNamespace(), latents())


def test_an_empty_batch():
    assert edm_sampler(Net(), torch.zeros(0, 3, 4, 4), num_steps=4).shape == (0, 3, 4, 4)
