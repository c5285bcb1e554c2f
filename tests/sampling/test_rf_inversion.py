"""RF-inversion: its ends in closed form, and the controlled equation itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import fastgen
from fastgen import schedules

FLOW = schedules.Rectified()
X = fastgen.randn((3, 2), seed=4, dtype=torch.float64)
SIDES: dict[str, Any] = {"source": {"mean": -1.0, "deviation": 0.5}}
SIDES["target"] = {"mean": 2.0, "deviation": 0.7}
GIVEN: dict[str, Any] = {"dtype": torch.float64, "seed": 3, **SIDES}


def data(x: Tensor, alpha: Any, sigma: Any, mean: float, deviation: float) -> Tensor:
    """E[x_0 | x] of N(mean, deviation^2) data."""
    v = deviation**2
    return mean + alpha * v / (alpha**2 * v + sigma**2) * (x - alpha * mean)


def model(schedule: Any, predicts: str = "data") -> fastgen.Model:
    def net(x: Tensor, t: Tensor, mean: float, deviation: float) -> Tensor:
        alpha, sigma = (f(t)[:, None] for f in (schedule.alpha, schedule.sigma))
        found = data(x, alpha, sigma, mean, deviation)
        return found if predicts == "data" else (x - alpha * found) / sigma - found

    return fastgen.Model(net, schedule, predicts, time_dtype=torch.float64)


@pytest.mark.parametrize("schedule", [FLOW, schedules.CosineVP(), schedules.LinearVP()])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun"])
def test_ends_that_are_known(schedule: Any, solver: str) -> None:
    edit = fastgen.rf_inversion
    there = {"solver": solver, "timesteps": "log_snr" if schedule is not FLOW else "uniform"}
    kept = edit(model(schedule), X, 12, eta=1.0, until=0.0, **there, **GIVEN)
    # The data stand for the state at t_min, which has that much noise.
    torch.testing.assert_close(kept, X, rtol=0, atol=4 * schedule.sigma(schedule.t_min))
    plain = edit(model(schedule), X, 12, gamma=0.0, eta=0.0, **there, **GIVEN)
    found = fastgen.invert(
        model(schedule), X, solver, 12, net_kwargs=SIDES["source"], dtype=torch.float64,
        timesteps=there["timesteps"],
    )  # fmt: skip
    same = found.resample(net_kwargs=SIDES["target"])
    torch.testing.assert_close(plain, same, rtol=0, atol=1e-9)


def test_typical_noise_leads_to_a_sample_of_the_target() -> None:
    """gamma = 1: the noise is z itself, and what is found is what z becomes."""
    found = fastgen.rf_inversion(model(FLOW), X, 20, gamma=1.0, eta=0.0, **GIVEN)
    z = fastgen.randn((3, 2), seed=3, dtype=torch.float64)
    plan = {"timesteps": "uniform", "end": FLOW.t_min, "dtype": torch.float64}
    want = fastgen.sample(model(FLOW), z, "euler", 20, net_kwargs=SIDES["target"], **plan)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-9)


def controlled(steps: int) -> Tensor:
    """Both equations of the paper by Euler's method, in velocities, fine."""
    z = fastgen.randn((3, 2), seed=3, dtype=torch.float64)
    x, times = X, torch.linspace(FLOW.t_min, 1, steps + 1, dtype=torch.float64).tolist()

    def velocity(x: Tensor, t: float, side: str) -> Tensor:
        found = data(x, 1 - t, t, **SIDES[side])
        return (x - found) / t

    for t, after in pairwise(times):
        v = velocity(x, t, "source")
        x = x + (after - t) * (v + 0.5 * ((z - x) / (1 - t) - v))
    for t, after in pairwise(times[::-1]):
        v = velocity(x, t, "target")
        eta = 0.8 * t if t >= 0.4 else 0.0
        x = x + (after - t) * (v + eta * ((x - X) / t - v))
    return x


def test_the_papers_equations() -> None:
    options: dict[str, Any] = {"gamma": 0.5, "eta": lambda t: 0.8 * t, "until": 0.4, **GIVEN}
    options |= {"timesteps": "uniform"}
    for predicts in ("data", "velocity"):
        found = fastgen.rf_inversion(model(FLOW, predicts), X, 25, **options)
        torch.testing.assert_close(found, controlled(25), rtol=0, atol=1e-9)


def test_rows_guidance_and_dtype() -> None:
    batch = fastgen.rf_inversion(model(FLOW), X, 4, **GIVEN)
    alone = fastgen.rf_inversion(model(FLOW), X[2:], 4, sample_ids=[2], **GIVEN)
    torch.testing.assert_close(alone, batch[2:], rtol=1e-12, atol=1e-12)
    guided = fastgen.Guidance(1.0, SIDES["source"])
    same = fastgen.rf_inversion(model(FLOW), X, 4, target_guidance=guided, **GIVEN)
    torch.testing.assert_close(same, batch, rtol=1e-12, atol=1e-12)
    half = fastgen.rf_inversion(model(FLOW), X, 4, **GIVEN | {"dtype": torch.float32})
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), batch, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gamma": 1.5}, "gamma=1.5: expected a number in"),
        ({"eta": -0.1}, "eta=-0.1: expected a number in"),
        ({"eta": lambda t: 2.0}, "eta=2.0: expected a number in"),
        ({"until": 2}, "until=2: expected a number in"),
        ({"solver": "ddpm"}, "draws noise and cannot be inverted"),
    ],
)
def test_bad_input(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fastgen.rf_inversion(model(FLOW), X, 4, **GIVEN | changed)
