"""EDM2's sampler beside Algorithm 2 on the guided denoiser, written out."""

import itertools
import math

import pytest
import torch

import fastgen
from fastgen.integrations.edm import edm2_sampler

SHAPE = (3, 2, 4)
LABELS = torch.tensor(0.2)
CHURN = {"S_churn": 8.0, "S_min": 0.1, "S_max": 30.0, "S_noise": 1.01}


class Net:
    def __init__(self, weight):
        self.weight, self.calls = weight, []

    def __call__(self, x, sigma, labels=None):
        assert sigma.ndim == 0
        self.calls.append(x.dtype)
        inner = torch.tanh(x / (sigma**2 + 1).sqrt() + torch.sin(sigma.log() / 2) + labels)
        return (self.weight * inner + 0.3 * x / (sigma**2 + 1)).float().to(x.dtype)


class Draws:
    def __init__(self):
        self.generator, self.count = torch.Generator().manual_seed(2), 0

    def __call__(self, x):
        self.count += 1
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


def algorithm_2(net, gnet, noise, guidance, steps, draws, churn):
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    levels = [(high + i / (steps - 1) * (low - high)) ** 7 for i in range(steps)] + [0.0]
    x = noise * levels[0]

    def slope(x, s):
        sigma = torch.tensor(s, dtype=x.dtype)
        main, reference = net(x, sigma, LABELS), gnet(x, sigma, LABELS)
        return (x - (reference + guidance * (main - reference))) / s

    for s, t in itertools.pairwise(levels):
        up = s
        if churn and churn["S_min"] <= s <= churn["S_max"]:
            up = s * (1 + min(churn["S_churn"] / steps, math.sqrt(2) - 1))
            x = x + math.sqrt(up**2 - s**2) * churn["S_noise"] * draws(x)
        d = slope(x, up)
        later = x + (t - up) * d
        x = later if t == 0 else x + (t - up) * (d + slope(later, t)) / 2
    return x


@pytest.mark.parametrize("churn", [{}, CHURN], ids=["plain", "churn"])
@pytest.mark.parametrize("guidance", [1, 2.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_is_algorithm_2_of_the_guided_denoiser(churn, guidance, dtype):
    net, gnet, noise = Net(0.7), Net(0.4), fastgen.randn(SHAPE, seed=1)
    mine, theirs = Draws(), Draws()
    # By name, as generate_images calls its sampler_fn.
    found = edm2_sampler(
        net=net, noise=noise, labels=LABELS, gnet=gnet, randn_like=mine,
        num_steps=12, guidance=guidance, dtype=dtype, **churn,
    )  # fmt: skip
    assert found.dtype == dtype
    assert set(net.calls) == {dtype}
    assert (len(net.calls), len(gnet.calls)) == (23, 0 if guidance == 1 else 23)
    exact = algorithm_2(Net(0.7), Net(0.4), noise.to(dtype), guidance, 12, theirs, churn)
    assert mine.count == theirs.count
    assert (mine.count > 0) == bool(churn)
    error = float((found - exact).abs().max() / exact.abs().max())
    assert error < 200 * torch.finfo(torch.float32).eps  # the network's own dtype


def test_the_arguments_stand_in_edm2s_order():
    net, gnet, noise = Net(0.7), Net(0.4), fastgen.randn(SHAPE, seed=1)
    given = net, noise, LABELS, gnet, 8, 0.01, 40, 5, 1.5, 4.0, 0.1, 9.0, 1.02, torch.float64
    found = edm2_sampler(*given, Draws())
    named = edm2_sampler(
        net, noise, labels=LABELS, gnet=gnet, num_steps=8, sigma_min=0.01, sigma_max=40, rho=5,
        guidance=1.5, S_churn=4.0, S_min=0.1, S_max=9.0, S_noise=1.02, dtype=torch.float64,
        randn_like=Draws(),
    )  # fmt: skip
    torch.testing.assert_close(found, named, rtol=0, atol=0)


def test_a_seed_for_each_sample():
    net, noise = Net(0.7), fastgen.randn(SHAPE, seed=1)
    whole = edm2_sampler(net, noise, LABELS, num_steps=6, seed=[7, 8, 9], **CHURN)
    one = edm2_sampler(net, noise[:1], LABELS, num_steps=6, seed=[7], **CHURN)
    torch.testing.assert_close(whole[:1], one, rtol=1e-5, atol=1e-5)
    other = edm2_sampler(net, noise[:1], LABELS, num_steps=6, seed=[5], **CHURN)
    assert (one - other).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"guidance": 2.0}, "guidance=2.0: it needs a guiding network; give gnet"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"sigma_min": 3.0, "sigma_max": 2.0}, "expected 0 < sigma_min < sigma_max"),
        ({"S_churn": -1.0}, "S_churn=-1.0"),
    ],
)
def test_refusals_name_the_argument(given, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        edm2_sampler(Net(0.7), fastgen.randn(SHAPE, seed=1), LABELS, **given)
