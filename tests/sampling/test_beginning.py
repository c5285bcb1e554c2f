"""Runs that begin at data with noise: `data=`, and what a shape alone is refused for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastgen

COSINE = fastgen.schedules.CosineVP()
FLOW = fastgen.schedules.Rectified()
X = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.0, -0.3]])
RUNS = {"seed": 7, "sample_ids": [5, 2]}


def zero(schedule: Any = COSINE) -> fastgen.Model:
    return fastgen.Model(lambda x, t: 0.3 * x, schedule, predicts="data")


def by_hand(schedule: Any, start: float, x: Tensor, **options: Any) -> Tensor:
    """The state that a run from data begins at."""
    z = fastgen.randn(x.shape, **options)
    return schedule.alpha(start) * x + schedule.sigma(start) * z


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dopri5", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("schedule", [COSINE, FLOW], ids=["cosine", "flow"])
def test_data_are_noised_to_the_first_time(schedule: Any, solver: str) -> None:
    options = {"start": 0.6, "end": 0.05}
    if solver != "dopri5":
        options["steps"] = 4
    found = fastgen.sample(zero(schedule), X.shape, solver, data=X, **RUNS, **options)
    begin = by_hand(schedule, 0.6, X, **RUNS)
    keys = {} if solver == "dopri5" else RUNS
    torch.testing.assert_close(
        found, fastgen.sample(zero(schedule), begin, solver, **keys, **options)
    )


def test_a_row_of_data_alone_and_for_all() -> None:
    one = {"solver": "ddpm", "steps": 4, "start": 0.5, "seed": 3}
    many = fastgen.sample(zero(), (6, 3), data=X[:1], **one)
    assert len(many.unique(dim=0)) == 6
    again = fastgen.sample(zero(), (1, 3), data=X[:1], sample_ids=[4], **one)
    assert torch.equal(many[4:5], again)


def test_a_sampler_a_capture_and_a_served_request_agree() -> None:
    sampler = fastgen.Sampler(zero(), fastgen.plan("ddpm", COSINE, 4, start=0.6))
    found = sampler(X.shape, data=X, **RUNS)
    assert torch.equal(found, sampler.capture(X.shape)(data=X, **RUNS))
    batch = sampler.serve((2, 3))
    tickets = [batch.admit(data=x, seed=7, sample_id=i) for x, i in zip(X, [5, 2], strict=True)]
    done: dict[int, Tensor] = {}
    while batch.active:
        done |= batch.step()
    assert torch.equal(found, torch.stack([done[t] for t in tickets]))


def test_the_dtype_is_the_states() -> None:
    double = fastgen.sample(
        zero(), X.shape, "ddim", 3, data=X.half(), start=0.6, dtype=torch.float64
    )
    assert double.dtype == torch.float64
    begin = by_hand(COSINE, 0.6, X.half().double(), dtype=torch.float64)
    expected = fastgen.sample(zero(), begin, "ddim", 3, start=0.6, dtype=torch.float64)
    torch.testing.assert_close(double, expected, rtol=1e-12, atol=1e-12)


def test_gradients_reach_the_data() -> None:
    x = X.clone().requires_grad_()
    options: dict[str, Any] = {"start": 0.6, "differentiable": True}
    fastgen.sample(zero(), X.shape, "ddim", 3, data=x, **options).sum().backward()
    moved = [fastgen.sample(zero(), X.shape, "ddim", 3, data=X + h, start=0.6) for h in (0, 1)]
    torch.testing.assert_close(x.grad, moved[1] - moved[0], rtol=1e-4, atol=1e-5)


def gaussian(mean: float, deviation: float) -> fastgen.Model:
    """The data prediction of N(mean, deviation^2) data on the flow."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        a, s = 1 - t, t
        gain = a * deviation**2 / (a**2 * deviation**2 + s**2)
        return mean + gain * (x - a * mean)

    return fastgen.Model(predict, FLOW, predicts="data")


@pytest.mark.parametrize("start", [0.2, 0.5, 0.8])
def test_gaussian_data_are_edited_as_the_closed_form_says(start: float) -> None:
    """The flow of N(m, v) maps x_t - a m to sqrt(v / (a^2 v + t^2)) of it, plus m."""
    mean, deviation, source = 1.0, 0.5, -2.0
    model, count = gaussian(mean, deviation), 20_000
    x = fastgen.sample(
        model,
        (count, 1),
        "dopri5",
        data=torch.full((1, 1), source),
        start=start,
        rtol=1e-6,
        atol=1e-6,
    )
    a = 1 - start
    gain = deviation / math.sqrt(a**2 * deviation**2 + start**2)
    expected, spread = mean + gain * a * (source - mean), gain * start
    assert abs(float(x.mean()) - expected) < 5 * spread / math.sqrt(count) + 1e-4
    assert abs(float(x.std()) / spread - 1) < 5 / math.sqrt(2 * count) + 1e-4


def test_data_of_the_models_own_law_stay_in_it() -> None:
    """Where a shape alone would give less than the right deviation."""
    mean, deviation, count = 0.0, 0.5, 20_000
    data = mean + deviation * fastgen.randn((count, 1), seed=1)
    x = fastgen.sample(
        gaussian(mean, deviation), (count, 1), "heun", 30, data=data, start=0.5, seed=2
    )
    assert abs(float(x.std()) / deviation - 1) < 5 / math.sqrt(2 * count) + 2e-3


@pytest.mark.parametrize("solver", ["ddim", "dopri5"])
def test_a_shape_alone_is_refused_where_the_data_count(solver: str) -> None:
    steps = {} if solver == "dopri5" else {"steps": 3}
    with pytest.raises(ValueError, match=r"start=0\.6: .* pass data="):
        fastgen.sample(zero(), (2, 3), solver, start=0.6, **steps)
    fastgen.sample(zero(), (2, 3), solver, start=0.9, end=0.1, **steps)


def test_times_that_begin_late_are_refused_too() -> None:
    with pytest.raises(ValueError, match=r"start=0\.5: "):
        fastgen.sample(zero(), (2, 3), "ddim", timesteps=[0.5, 0.2, 0.0])
    assert fastgen.sample(zero(), X.shape, "ddim", timesteps=[0.5, 0.0], data=X).shape == X.shape


def test_captures_and_servers_of_late_plans_take_states_and_refuse_shapes() -> None:
    sampler = fastgen.Sampler(zero(), fastgen.plan("ddim", COSINE, 3, start=0.6))
    captured, batch = sampler.capture(X.shape), sampler.serve((2, 3))
    assert torch.equal(captured(X), sampler(X))
    with pytest.raises(ValueError, match="pass data="):
        captured(seed=1)
    with pytest.raises(ValueError, match="pass data="):
        batch.admit(seed=1)
    assert batch.free == 2


def test_the_end_of_a_schedule_is_never_refused() -> None:
    """At the end of what a network was trained on, noise alone is what it was given."""
    short = fastgen.schedules.EDM(sigma_max=2.0)
    assert short.alpha(short.t_max) > 0.25 * short.sigma(short.t_max)
    assert fastgen.sample(zero(short), (2, 3), "ddim", 3).shape == (2, 3)


BAD: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "nothing left": (ValueError, "nothing of it is left", {"start": None}),
    "no tensor": (TypeError, "data", {"data": [1.0]}),
    "other shape": (ValueError, r"data: expected \(2, 3\)", {"data": X[:, :2]}),
    "state too": (ValueError, "data: the state is given", {"shape_or_x": X}),
    "whole numbers": (ValueError, "data", {"data": X.int()}),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_wrong_data_are_named(case: str) -> None:
    error, message, changed = BAD[case]
    options: dict[str, Any] = {"shape_or_x": X.shape, "data": X, "start": 0.6} | changed
    with pytest.raises(error, match=message):
        fastgen.sample(zero(), solver="ddim", steps=3, **options)


def test_a_request_takes_data_without_a_batch_axis() -> None:
    sampler = fastgen.Sampler(zero(), fastgen.plan("ddim", COSINE, 3, start=0.6))
    with pytest.raises(ValueError, match=r"data: expected shape \(3,\)"):
        sampler.serve((2, 3)).admit(data=X)
