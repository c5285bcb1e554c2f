"""Adaptive steps of strong order 1.5, and adaptive steps along a function."""

import pytest
import torch

import fastgen
from fastgen.noise.brownian_path import BrownianPath
from fastgen.sde import Adaptive

D = torch.float64
Y0 = torch.ones(16, 2, dtype=D)


def path(shape=(16, 2), **options):
    return BrownianPath(shape, 0.0, 1.0, seed=3, levy_area=True, dtype=D, **options)


class Called:
    """A path as a function of two times, with areas."""

    def __init__(self, path):
        self.path = path

    def __call__(self, s, t):
        return self.path(s, t)

    def with_area(self, s, t):
        return self.path.with_area(s, t)


def growth(noise, **options):
    y = fastgen.sdeint(
        lambda t, y: 0.5 * y, lambda t, y: 0.8 * y, Y0, [0.0, 1.0], noise=noise, **options
    )
    return y[-1]


def error(y, w):
    return float((y - torch.exp(0.5 - 0.32 + 0.8 * w)).square().mean().sqrt())


def test_srk_is_nearer_than_milsteins_method():
    motion = path()
    w = motion(0.0, 1.0)

    def found(method, tolerance):
        y = growth(motion, method=method, adaptive=True, rtol=tolerance, atol=tolerance)
        return error(y, w)

    assert found("srk", 2e-2) < found("milstein", 2e-2) / 2
    assert found("srk", 2e-3) < found("srk", 2e-2) / 2


@pytest.mark.parametrize("method", ["srk", "milstein"])
def test_steps_along_a_function(method):
    """All samples share the steps; the solution is that of the path."""
    motion = path()
    control = Adaptive(rtol=1e-3, atol=1e-3, step="joint")
    y = growth(Called(motion), method=method, adaptive=control)
    assert error(y, motion(0.0, 1.0)) < (0.01 if method == "srk" else 0.06)


@pytest.mark.parametrize("times", [[0.0, 0.3, 1.0], [1.0, 0.3, 0.0]])
def test_additive_noise_of_a_matrix_in_both_directions(times):
    """Against fixed steps of the same method on the same path."""
    motion = path((16, 3))
    matrix = torch.tensor([[1.0, 0.5, 0.0], [-0.5, 0.3, 0.8]], dtype=D)
    call = {"method": "srk", "noise_type": "additive"}
    f, g = lambda t, y: -(y**3), lambda t, y: (1 + t[:, None, None]) * matrix.expand(len(y), 2, 3)
    if times[0] > 0:
        f = lambda t, y: -torch.sin(y)  # noqa: E731
    exact = fastgen.sdeint(f, g, Y0, times, noise=motion, steps=256, **call)
    for noise in (motion, Called(motion)):
        control = Adaptive(
            rtol=1e-2, atol=1e-2, step="joint" if noise is not motion else "per_sample"
        )
        y = fastgen.sdeint(f, g, Y0, times, noise=noise, adaptive=control, **call)
        assert (y - exact).square().mean().sqrt() < 0.05


def test_a_sample_alone_takes_the_same_steps():
    whole = growth(path(), method="srk", adaptive=True, rtol=1e-2)
    alone = fastgen.sdeint(
        lambda t, y: 0.5 * y,
        lambda t, y: 0.8 * y,
        Y0[5:6],
        [0.0, 1.0],
        method="srk",
        noise=path((1, 2), sample_ids=[5]),
        adaptive=True,
        rtol=1e-2,
    )
    assert torch.equal(alone[-1], whole[5:6])


def test_the_integral_of_a_path():
    """W and its integral, against a sum over many times."""
    motion = path((2, 1))
    times = torch.linspace(0, 1, 4097, dtype=D)
    w, integral = motion.with_integral(times)
    middle = (w[1:] + w[:-1]) / 2
    assert (integral[-1] - middle.mean(0)).abs().max() < 0.01
    parts = integral.diff(dim=0) * 4096 - middle
    _, h = motion.steps_with_area(times, *torch.ones(2, 4096, dtype=D))
    assert (parts - h).abs().max() < 1e-9


def test_refusals():
    plain = BrownianPath((16, 2), 0.0, 1.0, dtype=D)
    with pytest.raises(ValueError, match="space-time Levy area"):
        growth(plain, method="srk", adaptive=True)
    with pytest.raises(ValueError, match="one time for all samples"):
        growth(Called(plain), method="milstein", adaptive=True)
    with pytest.raises(ValueError, match="levy_area=False"):
        plain.with_integral([0.5])
    with pytest.raises(ValueError, match="increments of shape"):
        growth(lambda s, t: torch.ones(3), method="milstein", adaptive=Adaptive(step="joint"))
