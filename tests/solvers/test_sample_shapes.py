"""Samples of any number of axes: the same numbers in another shape are the same run.

The network works element by element and the noise of the contract counts a sample's elements, so
nothing may depend on how they are arranged. Errors of a norm or a mean over "the last two axes",
or over what broadcasts, show here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fastgen
from fastgen import observations, rules, schedules, solvers

SHAPES = [(3, 4, 6), (3, 2, 3, 4), (3, 1, 2, 3, 4)]
FLAT = (3, 24)
VP, FLOW = schedules.CosineVP(), schedules.Rectified()
# A model of two times, a bridge's or a consistency function's is another one.
OTHERS = {"mean_flow"}
NOT_FLOWS = {"annealed_langevin"}


def net(x: Tensor, t: Tensor, shift: Tensor | None = None, **_: Any) -> Tensor:
    ones = [1] * (x.ndim - 1)
    moved = 0 if shift is None else shift.reshape(-1, *ones)
    return torch.tanh(0.7 * x + moved) * (0.5 + t.reshape(-1, *ones))


MODELS = {
    "noise": fastgen.Model(net, VP, "noise"),
    "velocity": fastgen.Model(net, FLOW, "velocity"),
}


def same(run: Any) -> None:
    """Whether a function of the shape gives the same numbers for each."""
    want = run(FLAT)
    for shape in SHAPES:
        torch.testing.assert_close(run(shape).reshape(want.shape), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("predicts", sorted(MODELS))
@pytest.mark.parametrize("name", [n for n in solvers.names() if n not in OTHERS])
def test_every_solver(name: str, predicts: str) -> None:
    if predicts == "velocity" and name in NOT_FLOWS:
        pytest.skip("no levels to match where alpha is 0")
    same(lambda shape: fastgen.sample(MODELS[predicts], shape, name, 3, seed=3))


def test_steps_that_depend_on_the_data() -> None:
    plan = fastgen.plan("predictor_corrector", VP, 4, step_rule="norm")
    same(fastgen.Sampler(MODELS["noise"], plan))
    for solver in ("dopri5", "dpm_adaptive"):
        same(lambda shape, s=solver: fastgen.sample(MODELS["noise"], shape, s, rtol=1e-2))
    parallel = fastgen.Parallel(window=3, tolerance=1e-2)
    same(lambda shape: fastgen.sample(MODELS["noise"], shape, "ddpm", 6, parallel=parallel))


@pytest.mark.parametrize("rule", [r for r in rules.NAMES if r not in ("sega", "perp_neg")])
def test_rules(rule: str) -> None:
    if rule == "frequency_decoupled":
        pytest.skip("of positions")
    guidance = fastgen.Guidance(3.0, {"shift": torch.zeros(3)}, rule=rule, rescale=0.5)
    given = {"guidance": guidance, "net_kwargs": {"shift": torch.ones(3)}}
    same(lambda shape: fastgen.sample(MODELS["noise"], shape, "dpmpp_2m", 3, **given))


@pytest.mark.parametrize("method", [*observations.METHODS, "daps", "ddrm", "repaint"])
def test_posteriors(method: str) -> None:
    def run(shape: tuple[int, ...]) -> Tensor:
        mask = (torch.arange(24) % 3 == 0).reshape(shape[1:])
        seen = observations.Mask(fastgen.randn((1, *shape[1:]), seed=5), mask)
        return fastgen.posterior(MODELS["noise"], seen, shape, method, steps=3)

    same(run)


def test_uses() -> None:
    model = MODELS["noise"]

    def data(shape: tuple[int, ...]) -> Tensor:
        return fastgen.randn(shape, seed=2)

    def reward(x: Tensor) -> Tensor:
        return -x.flatten(1).square().sum(1)

    same(lambda shape: fastgen.log_likelihood(model, data(shape), rtol=1e-3))
    same(lambda shape: fastgen.control.denoise(model, data(shape), 0.3))
    same(lambda shape: fastgen.control.anomaly_score(model, data(shape)))
    same(lambda shape: fastgen.control.path_length(model, data(shape)))
    same(lambda shape: fastgen.invert(model, data(shape), "heun", 3, exact=True).latent)
    plan = fastgen.plan("ddpm", VP, 3)
    same(lambda shape: fastgen.steer(model, plan, reward, shape, 2).samples)
