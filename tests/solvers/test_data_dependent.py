"""Steps whose size the network or the data decides: learned variances, norm-based correctors."""

import math
from itertools import pairwise

import pytest
import torch

import fastgen
from fastgen import Guidance, Plan, schedules
from fastgen.kernels import Stream

SCHEDULE = schedules.DiscreteVP.linear()


def double_network(x, t):
    """Noise prediction and, in the second half of the channels, the variance's interpolation."""
    time = t[:, None, None]
    return torch.cat([torch.tanh(x) * (0.5 + time), torch.sin(3 * x) * time], dim=1)


def solver_noise(shape, draw, seed=5):
    return fastgen.randn(shape, seed=seed, draw=draw, stream=Stream.SOLVER, dtype=torch.float64)


def sampler(net, solver, steps=6, guidance=None, transform=None, predicts="noise", model=None,
            **options):  # fmt: skip
    plan = fastgen.plan(solver, SCHEDULE, steps, timesteps="trailing", **options)
    m = fastgen.Model(net, SCHEDULE, predicts, time_dtype=torch.float64, **(model or {}))
    return fastgen.Sampler(m, plan, dtype=torch.float64, guidance=guidance, transform=transform)


def learned_by_hand(x, times, split=double_network, clip=None):
    """Improved DDPM as written in its paper, with discrete alpha bar of the visited steps."""
    for k, (s, t) in enumerate(pairwise(times)):
        bar_s, bar_t = SCHEDULE.alpha(s) ** 2, SCHEDULE.alpha(t) ** 2
        alpha = bar_s / bar_t
        beta = 1 - alpha
        output = split(x, torch.full((len(x),), s, dtype=torch.float64))
        eps, v = output.chunk(2, 1)
        data = (x - math.sqrt(1 - bar_s) * eps) / math.sqrt(bar_s)
        data = data if clip is None else data.clamp(*clip)
        mean = (math.sqrt(bar_t) * beta * data + math.sqrt(alpha) * (1 - bar_t) * x) / (1 - bar_s)
        x = mean
        if t > 0:
            posterior = beta * (1 - bar_t) / (1 - bar_s)
            f = (v + 1) / 2
            log_variance = f * math.log(beta) + (1 - f) * math.log(posterior)
            x = mean + torch.exp(log_variance / 2) * solver_noise(x.shape, k + 1)
    return x


@pytest.mark.parametrize("clip", [None, (-0.8, 0.7)])
@pytest.mark.parametrize("differentiable", [False, True])
def test_learned_variance_is_improved_ddpm(clip, differentiable):
    run = sampler(
        double_network, "ddpm", variance="learned", clip=clip, model={"learned_variance": True}
    )
    x = fastgen.randn((3, 2, 4), seed=1, dtype=torch.float64)
    expected = learned_by_hand(x, run.plan.times.tolist(), clip=clip)
    result = run(x, seed=5, differentiable=differentiable)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)
    parts = [run(x[i : i + 1], seed=5, sample_ids=[i]) for i in range(3)]
    torch.testing.assert_close(torch.cat(parts), run(x, seed=5), rtol=0, atol=0)


def test_learned_variance_takes_the_conditional_branch_under_guidance():
    def net(x, t, label):
        return double_network(x + label[:, None, None], t)

    label, null = torch.tensor([0.3, -0.5]), torch.tensor([0.0])

    def merged(x, t):
        c, v = net(x, t, label).chunk(2, 1)
        u, _ = net(x, t, null.expand(2)).chunk(2, 1)
        return torch.cat([u + 2.5 * (c - u), v], 1)

    run = sampler(
        net,
        "ddpm",
        guidance=Guidance(2.5, {"label": null}),
        variance="learned",
        model={"learned_variance": True},
    )
    x = fastgen.randn((2, 2, 4), seed=1, dtype=torch.float64)
    expected = learned_by_hand(x, run.plan.times.tolist(), merged)
    result = run(x, seed=5, label=label)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)


def test_other_solvers_leave_the_variance_channels_alone():
    def mean_only(x, t):
        return double_network(x, t).chunk(2, 1)[0]

    x = fastgen.randn((3, 2, 4), seed=1, dtype=torch.float64)
    one = sampler(double_network, "dpmpp_2m", model={"learned_variance": True})(x)
    assert torch.equal(one, sampler(mean_only, "dpmpp_2m")(x))


def test_variances_of_the_user():
    times = fastgen.plan("ddpm", SCHEDULE, 6, timesteps="trailing").times
    sigma, ratio = SCHEDULE.sigma(times), SCHEDULE.ratio(times)
    small = sigma[1:] ** 2 * (1 - (ratio[1:] / ratio[:-1]) ** 2)

    def net(x, t):
        return torch.tanh(x)

    own = sampler(net, "ddpm", variance=small.tolist())((2, 3), seed=1)
    torch.testing.assert_close(own, sampler(net, "ddpm")((2, 3), seed=1), rtol=0, atol=1e-12)
    halfway = sampler(net, "ddpm", variance=0.5)((2, 3), seed=1)
    assert (halfway - own).abs().max() > 1e-3


def test_learned_variance_must_be_there():
    with pytest.raises(ValueError, match="learned_variance=True"):
        sampler(double_network, "ddpm", variance="learned")
    with pytest.raises(ValueError, match=r"expected a real tensor of shape \(2, 4, 4\)"):
        sampler(lambda x, t: x, "ddpm", model={"learned_variance": True})((2, 2, 4))
    with pytest.raises(ValueError, match="one per step"):
        sampler(double_network, "ddpm", variance=[0.1, 0.2])
    with pytest.raises(ValueError, match="variances depend on the network"):
        fastgen.sampled_log_probability(
            fastgen.plan("ddpm", SCHEDULE, 3, variance="learned"), (2, 3)
        )


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4), (3, 1, 2, 4), (3, 1, 2, 2, 2)])
@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("predicts", ["noise", "edm"])
def test_norm_based_corrector_step(differentiable, predicts, shape):
    """Against the ancestral predictor and Algorithm 5's corrector written out."""

    def net(x, t):
        return torch.tanh(x) * (0.5 + t.reshape(-1, *[1] * (x.ndim - 1)))

    def size(x):
        return x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))

    run = sampler(net, "predictor_corrector", predicts=predicts, step_rule="norm", snr=0.2)
    model, x = run.model, fastgen.randn(shape, seed=1, dtype=torch.float64)
    result = run(x, seed=5, differentiable=differentiable)
    draw = 0
    for s, t in pairwise(run.plan.times.tolist()):
        data = model.predict("data", x, s)
        std = SCHEDULE.sigma(t) * math.sqrt(1 - (SCHEDULE.ratio(t) / SCHEDULE.ratio(s)) ** 2)
        down = math.sqrt(SCHEDULE.sigma(t) ** 2 - std**2)
        x = SCHEDULE.alpha(t) * data + down / SCHEDULE.sigma(s) * (x - SCHEDULE.alpha(s) * data)
        if t == 0:
            break
        x = x + std * solver_noise(x.shape, draw := draw + 1)
        score = model.predict("score", x, t)
        z = solver_noise(x.shape, draw := draw + 1)
        tau = 2 * (0.2 * size(z) / size(score)) ** 2
        x = x + tau * score + (2 * tau).sqrt() * z
    torch.testing.assert_close(result, x, rtol=0, atol=1e-9)


def test_sizes_of_one_sample_do_not_depend_on_the_others():
    run = sampler(lambda x, t: torch.tanh(x), "predictor_corrector", step_rule="norm")
    whole = run((4, 5), seed=2)
    assert torch.equal(run((1, 5), seed=2, sample_ids=[2])[0], whole[2])


def test_plans_with_computed_tensors_survive_json():
    for solver, options in (
        ("ddpm", {"variance": "learned"}),
        ("predictor_corrector", {"step_rule": "norm"}),
    ):
        plan = fastgen.plan(solver, SCHEDULE, 3, timesteps="trailing", **options)
        again = Plan.from_json(plan.to_json())
        assert str(again) == str(plan)
        assert again.to_json() == plan.to_json()
        with pytest.raises(ValueError, match="depend on the data"):
            plan.canonical()
