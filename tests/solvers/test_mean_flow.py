"""Networks of two times: MeanFlow and shortcut models."""

import pytest
import torch

import fastgen
from fastgen import schedules

MEAN, SCALE = 0.7, 0.4


def deviation(t):
    """Standard deviation of (1 - t) x_0 + t eps for x_0 ~ N(MEAN, SCALE^2)."""
    return ((1 - t) ** 2 * SCALE**2 + t**2).sqrt()


def flow(x, t, r):
    """The exact flow map of the rectified process from t to r."""
    return (1 - r) * MEAN + deviation(r) / deviation(t) * (x - (1 - t) * MEAN)


def average(x, t, r):
    """The average velocity over [r, t]; the velocity itself where r = t, by its derivative."""
    t, r = t[:, None], r[:, None]
    slope = -((1 - t) * SCALE**2 - t) / deviation(t) ** 2
    velocity = -MEAN + slope * (x - (1 - t) * MEAN)
    same = (t - r).abs() < 1e-9
    return torch.where(same, velocity, (x - flow(x, t, r)) / torch.where(same, 1.0, t - r))


def model(net, **options):
    return fastgen.Model(
        net, schedules.Rectified(), "average_velocity", time_dtype=torch.float64, **options
    )


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("convention", ["end", "step", "data_at_one"])
def test_exact_average_velocity_gives_the_exact_flow(steps, convention):
    def net(x, t, second):
        if convention == "step":
            return average(x, t, t - second)
        if convention == "data_at_one":
            return -average(x, 1 - t, 1 - second)
        return average(x, t, second)

    options = {
        "end": {},
        "step": {"second_time": "step"},
        "data_at_one": {"data_at": 1},
    }[convention]
    x = fastgen.randn((50, 3), seed=1, dtype=torch.float64)
    result = fastgen.sample(model(net, **options), x, "mean_flow", steps, dtype=torch.float64)
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    torch.testing.assert_close(result, flow(x, one, zero), rtol=0, atol=1e-12)


def test_a_network_of_two_times_serves_every_other_solver():
    velocity = fastgen.Model(
        lambda x, t: average(x, t, t), schedules.Rectified(), "velocity", time_dtype=torch.float64
    )
    for solver in ("heun", "dpmpp_2m", "ddim"):
        one, other = (
            fastgen.sample(m, (5, 2), solver, 6, seed=3, dtype=torch.float64)
            for m in (velocity, model(average))
        )
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_network_of_one_time_is_refused():
    m = fastgen.Model(lambda x, t: x, schedules.Rectified(), "velocity")
    with pytest.raises(ValueError, match="needs a network of two times"):
        fastgen.sample(m, (2, 2), "mean_flow", 2)


def test_second_time_must_be_known():
    with pytest.raises(ValueError, match="second_time='length'"):
        model(average, second_time="length")
