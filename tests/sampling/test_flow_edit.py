"""FlowEdit between Gaussians, whose velocities are known."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import fastgen

FLOW = fastgen.schedules.Rectified()
MEANS = {"source": {"mean": -1.0, "deviation": 0.5}, "target": {"mean": 2.0, "deviation": 0.5}}
X = fastgen.randn((3, 2), seed=4, dtype=torch.float64)


def velocity(x: Tensor, t: Any, mean: float, deviation: float) -> Any:
    """E[z - x_0 | x] of N(mean, deviation^2) data on the straight path."""
    a, v = 1 - t, deviation**2
    return (t - a * v) / (a**2 * v + t**2) * (x - a * mean) - mean


def net(x: Tensor, t: Tensor, mean: float, deviation: float) -> Tensor:
    return velocity(x, t.reshape(-1, 1), mean, deviation)


MODEL = fastgen.Model(net, FLOW, "velocity", time_dtype=torch.float64)


@pytest.mark.parametrize("start", [0.3, 0.66, 1.0])
def test_a_shift_of_the_mean_is_the_closed_form(start: float) -> None:
    """y - x - (1 - t) shift decays as the flow of the common variance does, whatever the noise."""
    found = fastgen.flow_edit(MODEL, X, 2000, **MEANS, start=start, seed=3) - X
    a, v = 1 - start, 0.25
    exact = 3.0 * (1 - a * math.sqrt(v / (a**2 * v + start**2)))
    torch.testing.assert_close(found, torch.full_like(X, exact), rtol=0, atol=6e-3)


def test_the_same_condition_changes_nothing() -> None:
    same = {"source": MEANS["source"], "target": MEANS["source"]}
    torch.testing.assert_close(fastgen.flow_edit(MODEL, X, 5, **same), X, rtol=0, atol=1e-12)


def edits(average: int, count: int = 20_000) -> Tensor:
    target = {"mean": 2.0, "deviation": 1.5}
    x = torch.full((count, 1), 0.4, dtype=torch.float64)
    return fastgen.flow_edit(
        MODEL, x, 6, source=MEANS["source"], target=target, average=average, seed=9
    )


def test_other_deviations_have_the_mean_of_eulers_steps_and_average_their_noise() -> None:
    one, four = edits(1), edits(4)
    x = y = torch.tensor(0.4, dtype=torch.float64)
    times = torch.linspace(0.66, 0, 7, dtype=torch.float64).tolist()
    for t, after in pairwise(times):  # velocities are affine: the noise's mean is 0
        noisy = (1 - t) * x
        change = velocity(y + noisy - x, t, 2.0, 1.5) - velocity(noisy, t, -1.0, 0.5)
        y = y + (after - t) * change
    for found in (one, four):
        assert abs(float(found.mean() - y)) < 5 * float(found.std()) / math.sqrt(len(found))
    ratio = float(one.var() / four.var())
    assert abs(ratio / 4 - 1) < 5 * 2 / math.sqrt(len(one))


def test_a_row_alone_is_the_row_of_its_batch() -> None:
    target = {"mean": 0.0, "deviation": 1.5}
    options: dict[str, Any] = {"source": MEANS["source"], "target": target, "seed": 2}
    batch = fastgen.flow_edit(MODEL, X, 4, **options)
    alone = fastgen.flow_edit(MODEL, X[2:], 4, sample_ids=[2], **options)
    torch.testing.assert_close(alone, batch[2:], rtol=1e-12, atol=1e-12)
    times = fastgen.flow_edit(MODEL, X, None, timesteps=[0.66, 0.3, 0.0], **options)
    grid = fastgen.flow_edit(MODEL, X, 2, **options)
    assert times.shape == grid.shape
    assert not torch.equal(times, grid)


def test_guidance_of_the_target_moves_its_mean() -> None:
    """Scale 2 against the source's velocity is linear: the shift is twice as large."""
    guided = fastgen.Guidance(2.0, unconditional=MEANS["source"])
    plain = fastgen.flow_edit(MODEL, X, 50, **MEANS, start=1.0) - X
    found = fastgen.flow_edit(MODEL, X, 50, **MEANS, start=1.0, target_guidance=guided) - X
    torch.testing.assert_close(found, 2 * plain, rtol=1e-9, atol=1e-9)


BAD: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "average of none": (ValueError, "average", {"average": 0}),
    "average without end": (ValueError, "from 1 to 1048576", {"average": 2**48}),
    "reversed times": (ValueError, "start", {"start": 0.1, "end": 0.5}),
    "whole data": (ValueError, "x: expected floating", {"x": X.int()}),
    "no arguments": (TypeError, "source", {"source": None}),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_arguments_are_named(case: str) -> None:
    error, message, changed = BAD[case]
    options: dict[str, Any] = {"x": X, "steps": 3, **MEANS} | changed
    with pytest.raises(error, match=message):
        fastgen.flow_edit(MODEL, **options)
