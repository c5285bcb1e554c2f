"""Pairs of networks, velocity and score, on the Gaussian Schroedinger bridge in closed form."""

import numpy as np
import pytest
import torch

import fastgen
from fastgen.schedules import LinearVP, Rectified
from tests.support.closed_forms import Gaussian, network, propagate, slope


class Bridge:
    """The Schroedinger bridge from N(a, I) at t = 1 to N(-a, I) at t = 0 with noise sigma.

    Its marginals are N((2 t - 1) a, v I), v = (1 - t)^2 + t^2 + t (1 - t) sqrt(4 + sigma^4)
    (Mallasto et al. 2022; De Bortoli et al. 2021, arXiv 2106.01357).
    """

    def __init__(self, sigma, a=0.1):
        self.mean, self.a, self.root = (a,), a, np.sqrt(4 + sigma**4)

    def marginal(self, t):
        mean = (2 * t - 1) * self.a
        return mean, (1 - t) ** 2 + t**2 + t * (1 - t) * self.root

    def velocity_and_score(self, t, centred):
        """Both for x - mean, without the mean's own 2 a in the velocity."""
        _, v = self.marginal(t)
        rate = (2 * t - 2 * (1 - t) + (1 - 2 * t) * self.root) / (2 * v)
        return rate * centred, -centred / v

    def predictions(self, schedule, t, x):
        centred = x.copy()
        centred[0] -= self.marginal(t)[0]
        velocity, score = self.velocity_and_score(t, centred)
        velocity[0] += 2 * self.a
        return {"velocity": velocity, "score": score}

    def model(self, scale=1.0, data_at=0):
        def net(x, t):
            time = t[0].item() if data_at == 0 else 1 - t[0].item()
            u, s = self.velocity_and_score(time, x - self.marginal(time)[0])
            return (u + 2 * self.a) * (1 if data_at == 0 else -1), scale * s

        return fastgen.Model(net, Rectified(), "velocity_and_score", score_scale=scale,
                             data_at=data_at, time_dtype=torch.float64)  # fmt: skip


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_law_at_the_end_to_first_order(sigma):
    bridge, counts = Bridge(sigma), (25, 50, 100, 200, 400)
    of_mean, of_variance = [], []
    for n in counts:
        plan = fastgen.plan("bridge_sde", Rectified(), n, timesteps="uniform", sigma=sigma)
        mean, variance = propagate(plan, bridge, np.array([0.1]), np.array([1.0]))
        of_mean.append(abs(mean[0] + 0.1))
        of_variance.append(abs(variance[0] - 1))
    assert max(of_mean) < 1e-12  # the mean moves along a straight line
    assert of_variance[-1] < 0.02
    assert abs(slope(counts, of_variance) - 1) < 0.25


def test_the_last_step_can_leave_its_noise_out():
    bridge = Bridge(1.0)
    laws = [
        propagate(
            fastgen.plan("bridge_sde", Rectified(), 50, timesteps="uniform", last_step=last),
            bridge, np.array([0.1]), np.array([1.0]),
        )
        for last in ("noise", "mean")
    ]  # fmt: skip
    assert laws[0][1] - laws[1][1] == pytest.approx(1 / 50)


@pytest.mark.parametrize("data_at", [0, 1])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_sampler_runs_the_pair(scale, data_at):
    """[SF]2M networks give sigma^2 / 2 times the score, and have data at 1."""
    bridge = Bridge(1.0)
    plan = fastgen.plan("bridge_sde", Rectified(), 40, timesteps="uniform")
    x = fastgen.randn((20000, 1), seed=1, dtype=torch.float64) + 0.1
    sampler = fastgen.Sampler(bridge.model(scale, data_at), plan, dtype=torch.float64)
    y = sampler(x, seed=2)
    mean, variance = propagate(plan, bridge, np.array([0.1]), np.array([1.0]))
    assert abs(y.mean().item() - mean[0]) < 4 * np.sqrt(variance[0] / len(x))
    assert abs(y.var().item() / variance[0] - 1) < 4 * np.sqrt(2 / len(x))


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "adams_bashforth", "bridge_sde"])
def test_a_pair_gives_what_one_network_of_both_gives(solver):
    schedule, data = Rectified(), Gaussian((0.3, -1.0), (0.5, 1.5))
    one = fastgen.Model(network(data, schedule, "data"), schedule, "data",
                        time_dtype=torch.float64)  # fmt: skip
    nets = [network(data, schedule, q) for q in ("velocity", "score")]
    two = fastgen.Model(lambda x, t: tuple(n(x, t) for n in nets), schedule,
                        "velocity_and_score", time_dtype=torch.float64)  # fmt: skip
    results = [
        fastgen.sample(m, (4, 2), solver, seed=3, timesteps=[0.9, 0.5, 0.2], dtype=torch.float64)
        for m in (one, two)
    ]
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


def test_trajectories_and_gradients_of_a_pair():
    bridge = Bridge(1.0)
    plan = fastgen.plan("bridge_sde", Rectified(), 5, timesteps="uniform")
    sampler = fastgen.Sampler(bridge.model(), plan, dtype=torch.float64)
    x = torch.full((3, 1), 0.4, dtype=torch.float64, requires_grad=True)
    plain = sampler(x.detach(), seed=1)
    recorded = sampler(x, seed=1, differentiable=True)
    torch.testing.assert_close(plain, recorded.detach(), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(recorded.sum(), x)
    moved = sampler(x.detach() + 1e-6, seed=1)
    torch.testing.assert_close((moved - plain) / 1e-6, gradient, rtol=1e-6, atol=1e-6)


def test_refusals():
    bridge, schedule = Bridge(1.0), Rectified()
    with pytest.raises(ValueError, match="the data does not follow"):
        fastgen.sample(bridge.model(), (2, 1), "ddim", 4)
    with pytest.raises(ValueError, match="guidance: a network of velocity and score"):
        fastgen.Sampler(bridge.model(), fastgen.plan("euler", schedule, 4),
                        guidance=fastgen.Guidance(2.0))  # fmt: skip
    with pytest.raises(ValueError, match="score_scale=0"):
        fastgen.Model(lambda x, t: (x, x), schedule, "velocity_and_score", score_scale=0)
    with pytest.raises(ValueError, match="learned_variance"):
        fastgen.Model(lambda x, t: (x, x), schedule, "velocity_and_score", learned_variance=True)
    single = fastgen.Model(lambda x, t: x, schedule, "velocity_and_score")
    with pytest.raises(ValueError, match=r"expected \(velocity, score\), got Tensor"):
        fastgen.sample(single, (2, 1), "euler", 4)
    with pytest.raises(ValueError, match="sigma=-1"):
        fastgen.plan("bridge_sde", LinearVP(), 4, sigma=-1)
