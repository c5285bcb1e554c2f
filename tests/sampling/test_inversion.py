"""Data to noise and back: closed form, orders of the round trip, refusals."""

import math

import numpy as np
import pytest
import torch

import fastgen
from fastgen import schedules

MEAN, SCALE = 0.4, 0.6


def gaussian(schedule):
    """The exact denoiser of N(MEAN, SCALE^2)."""

    def net(x, t):
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        gain = alpha * SCALE**2 / (alpha**2 * SCALE**2 + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)

    return fastgen.Model(net, schedule, "data", time_dtype=torch.float64)


def exact(schedule, x, s, t):
    def deviation(u):
        return math.hypot(schedule.alpha(u) * SCALE, schedule.sigma(u))

    return schedule.alpha(t) * MEAN + deviation(t) / deviation(s) * (x - schedule.alpha(s) * MEAN)


@pytest.mark.parametrize(
    ("solver", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2), ("rk4", 4)]
)
@pytest.mark.parametrize("schedule", [schedules.LinearVP(), schedules.Rectified()])
def test_latent_and_round_trip_converge_at_the_order_of_the_solver(solver, order, schedule):
    x = MEAN + SCALE * fastgen.randn((20, 2), seed=1, dtype=torch.float64)
    counts = np.array([80, 112, 160, 224, 320])
    latents, trips = [], []
    for steps in counts:
        found = fastgen.invert(
            gaussian(schedule), x, solver, int(steps), start=0.9, end=0.1, dtype=torch.float64
        )
        latents.append((found.latent - exact(schedule, x, 0.1, 0.9)).abs().max().item())
        trips.append(found.error.max().item())
    for errors in (latents, trips):
        slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
        assert slope > order - 0.25
    assert trips[-1] < 0.01


def test_default_starts_from_data_at_t_min():
    schedule = schedules.LinearVP()
    x = MEAN + SCALE * fastgen.randn((20, 2), seed=1, dtype=torch.float64)
    found = fastgen.invert(
        gaussian(schedule), x, "dpmpp_2m", 100, timesteps="log_snr", dtype=torch.float64
    )
    assert (found.sampling.times[0], found.sampling.times[-1]) == (1.0, schedule.t_min)
    torch.testing.assert_close(
        found.latent, exact(schedule, x, schedule.t_min, 1.0), rtol=0, atol=3e-3
    )
    torch.testing.assert_close(found.reconstruction, x, rtol=0, atol=3e-3)


def test_flow_can_be_inverted_from_t_zero():
    schedule = schedules.Rectified()
    x = MEAN + SCALE * fastgen.randn((20, 2), seed=1, dtype=torch.float64)
    data = gaussian(schedule)

    def velocity(x, t):
        # At t = 0 the limit of (x - D) / t: the noise that remains has mean 0, D is x itself.
        return (x - data.net(x, t)) / t[:, None] if t[0] > 0 else -x

    model = fastgen.Model(velocity, schedule, "velocity", time_dtype=torch.float64)
    found = fastgen.invert(model, x, "rk4", 50, end=0.0, dtype=torch.float64)
    torch.testing.assert_close(found.latent, exact(schedule, x, 0.0, 1.0), rtol=0, atol=1e-6)


def test_stochastic_plans_are_refused():
    model = gaussian(schedules.LinearVP())
    with pytest.raises(ValueError, match="draws noise"):
        fastgen.invert(model, torch.zeros(2, 3), "ddim", 5, eta=0.5)
    with pytest.raises(ValueError, match="draws noise"):
        fastgen.invert(model, torch.zeros(2, 3), "ddpm", 5)


def deterministic():
    table = fastgen.solvers.registry
    entries = {name: table.get(name) for name in table.names()}
    return [n for n, e in entries.items() if not (e.stochastic or e.two_times)]


@pytest.mark.parametrize("schedule", [schedules.Rectified(), schedules.Trig()])
@pytest.mark.parametrize("solver", deterministic())
def test_every_solver_inverts_a_flow_up_to_pure_noise(solver, schedule):
    """At t = 1, where alpha is 0; x -> 0.25 x is the exact data prediction of N(0, 1/4) data."""
    x = fastgen.randn((4, 2), seed=1, dtype=torch.float64) / 2

    def data(x, t):
        a, s = schedule.alpha(t.double())[:, None], schedule.sigma(t.double())[:, None]
        return a / 4 / (a**2 / 4 + s**2) * x

    model = fastgen.Model(data, schedule, "data", time_dtype=torch.float64)
    a, s = schedule.alpha(schedule.t_min), schedule.sigma(schedule.t_min)
    end = x / math.sqrt(a**2 / 4 + s**2)
    found = fastgen.invert(model, x, solver, 80, dtype=torch.float64)
    assert found.sampling.times[0] == 1.0
    assert (found.latent - end).abs().max() < 0.1
    assert found.error.max() < 0.1


def test_a_plan_of_one_step_to_pure_noise():
    """sigma eps at the start, whatever the solver."""
    plan = fastgen.plan("dpmpp_2m", schedules.Rectified(), 1, end=0.01, reverse=True)
    assert plan.times.tolist() == [0.01, 1.0]
    assert len(plan.evaluations) == 1
