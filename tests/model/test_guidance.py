"""Guidance inside the fused stage equals guidance around the network."""

from itertools import pairwise

import pytest
import torch

import fastgen
from fastgen import Guidance, schedules

SCHEDULE = schedules.LinearVP()
LABEL = torch.tensor([0.3, -0.8, 1.2])
NULL = torch.tensor([0.0])


def network(x, t, label):
    return torch.tanh(x * (1 + label[:, None])) * (0.5 + t[:, None])


def sampler(guidance, net=network, solver="dpmpp_2m", **options):
    plan = fastgen.plan(solver, SCHEDULE, steps=6, start=0.9, **options)
    model = fastgen.Model(net, SCHEDULE, "noise", time_dtype=torch.float64)
    return fastgen.Sampler(model, plan, guidance=guidance, dtype=torch.float64)


def around(scale, weak=network, interval=(0.0, 1.0)):
    """The guided network as one would write it by hand."""
    scale = torch.as_tensor(scale, dtype=torch.float64).reshape(-1, 1)

    def net(x, t, label):
        c = network(x, t, label)
        u = weak(x, t, NULL.expand(len(x)) if weak is network else label)
        guided = ((t >= interval[0]) & (t <= interval[1]))[:, None]
        return torch.where(guided, u + scale * (c - u), c)

    return net


@pytest.mark.parametrize(
    "solver",
    [
        n
        for n in fastgen.solvers.names()
        if "cfgpp" not in n and not fastgen.solvers.get(n).two_times
    ],
)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("scale", [2.5, torch.tensor([1.0, 0.0, 4.0])])
def test_equals_guidance_around_the_network(solver, batched, scale):
    guided = sampler(Guidance(scale, {"label": NULL}, batched=batched), solver=solver)
    expected = sampler(None, around(scale), solver=solver)((3, 4), seed=2, label=LABEL)
    result = guided((3, 4), seed=2, label=LABEL)
    limit = 1e-11 * expected.abs().max().item()
    torch.testing.assert_close(result, expected, rtol=0, atol=limit)


def test_clips_the_guided_data_prediction():
    guided = sampler(Guidance(3.0, {"label": NULL}), clip=(-0.6, 0.9))
    expected = sampler(None, around(3.0), clip=(-0.6, 0.9))((3, 4), label=LABEL)
    torch.testing.assert_close(guided((3, 4), label=LABEL), expected, rtol=0, atol=1e-11)


def test_outside_the_interval_the_network_is_called_once_and_unguided():
    rows = []

    def counting(x, t, label):
        rows.append((len(x), t[0].item()))
        return network(x, t, label)

    interval = (0.2, 0.6)
    guided = sampler(Guidance(3.0, {"label": NULL}, interval), counting)
    result = guided((3, 4), label=LABEL)
    assert len(rows) == guided.plan.nfe
    for count, t in rows:
        assert count == (6 if 0.2 <= t <= 0.6 else 3)
    expected = sampler(None, around(3.0, interval=interval))((3, 4), label=LABEL)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-11)


def test_autoguidance_by_a_weaker_network():
    def weak(x, t, label):
        return 0.3 * network(x, t, label)

    guided = sampler(Guidance(2.0, network=weak))
    expected = sampler(None, around(2.0, weak))((3, 4), label=LABEL)
    torch.testing.assert_close(guided((3, 4), label=LABEL), expected, rtol=0, atol=1e-11)


def test_scale_one_is_no_guidance():
    calls = []

    def counting(x, t, label):
        calls.append(len(x))
        return network(x, t, label)

    result = sampler(Guidance(1.0, {"label": NULL}), counting)((3, 4), label=LABEL)
    assert calls == [3] * 6
    assert torch.equal(result, sampler(None)((3, 4), label=LABEL))


def test_guidance_adds_one_read_per_stage_and_no_write():
    def reads_and_writes(guidance):
        stages = sampler(guidance).prepared.program().stages
        return [(len(s.inputs), len(s.outputs)) for s in stages if s]

    plain, guided = reads_and_writes(None), reads_and_writes(Guidance(2.0))
    assert [(r - 1, w) for r, w in guided] == plain


def test_gradients_pass_through_both_branches():
    scale = torch.tensor([2.0, 1.5])
    label = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)

    def run(label):
        guided = sampler(Guidance(scale, {"label": NULL}, batched=False), solver="ddim")
        return guided((2, 2), label=label, differentiable=True)

    assert torch.autograd.gradcheck(run, (label,))


@pytest.mark.parametrize("batched", [True, False])
def test_cfgpp_renoises_with_the_unconditional_prediction(batched):
    guided = sampler(Guidance(0.6, {"label": NULL}, batched=batched), solver="ddim_cfgpp")
    z = fastgen.randn((3, 4), seed=1, dtype=torch.float64)
    x = SCHEDULE.sigma(0.9) * z
    for s, t in pairwise(guided.plan.times.tolist()):
        time = torch.full((3,), s, dtype=torch.float64)
        c, u = network(x, time, LABEL), network(x, time, NULL.expand(3))
        data = (x - SCHEDULE.sigma(s) * (u + 0.6 * (c - u))) / SCHEDULE.alpha(s)
        x = SCHEDULE.alpha(t) * data + SCHEDULE.sigma(t) * u
    result = guided((3, 4), seed=1, label=LABEL)
    torch.testing.assert_close(result, x, rtol=0, atol=1e-11 * x.abs().max().item())
    plain = sampler(None, solver="ddim_cfgpp")((3, 4), seed=1, label=LABEL)
    ddim = sampler(None, solver="ddim")((3, 4), seed=1, label=LABEL)
    torch.testing.assert_close(plain, ddim, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [3.0, torch.tensor([3.0, 1.5, 0.5])])
def test_rescale_restores_the_standard_deviation(scale):
    def by_hand(x, t, label):
        c, u = network(x, t, label), network(x, t, NULL.expand(len(x)))
        guided = u + torch.as_tensor(scale).to(x).reshape(-1, 1) * (c - u)
        ratio = c.std(1, keepdim=True) / guided.std(1, keepdim=True)
        return 0.7 * guided * ratio + 0.3 * guided

    guided = sampler(Guidance(scale, {"label": NULL}, rescale=0.7))
    expected = sampler(None, by_hand)((3, 4), label=LABEL)
    result = guided((3, 4), label=LABEL)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-11 * expected.abs().max().item())
    whole = Guidance(4.0, rescale=1.0)
    c, u = torch.randn(2, 5, 100).unbind(0)
    torch.testing.assert_close(whole.merge([c, u], 0.5).output.std(1), c.std(1))


@pytest.mark.parametrize("predicts", ["data", "noise", "v", "edm"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("guided", [False, True])
def test_transform_of_the_data_prediction(predicts, dtype, guided):
    plan = fastgen.plan("dpmpp_2m", SCHEDULE, steps=5, start=0.9)
    model = fastgen.Model(network, SCHEDULE, predicts, dtype=dtype, time_dtype=torch.float64)
    seen = []

    def transform(data, t):
        seen.append(t)
        return torch.tanh(data) * 0.9

    guidance = Guidance(2.0, {"label": NULL}) if guided else None

    def whole(x, t, label):
        c = model.net(scaled := x * c_in(t), t, label)
        output = c if not guided else (u := model.net(scaled, t, NULL.expand(3))) + 2 * (c - u)
        p, q = model.parametrisation.conversion("data", t[0].item())
        return torch.tanh(p * x + q * output.to(x.dtype)) * 0.9

    def c_in(t):
        return model.parametrisation.input_scale(t[0].item())

    if dtype == torch.bfloat16:
        net = model.net
        model.net = lambda x, t, label: net(x.to(torch.bfloat16), t, label)
    data_model = fastgen.Model(whole, SCHEDULE, "data", time_dtype=torch.float64)
    expected = fastgen.Sampler(data_model, plan, dtype=torch.float64)((3, 4), label=LABEL)
    with_transform = fastgen.Sampler(
        model, plan, guidance=guidance, transform=transform, dtype=torch.float64
    )
    result = with_transform((3, 4), label=LABEL)
    torch.testing.assert_close(
        result, expected, rtol=0, atol=1e-11 if dtype == torch.float64 else 1e-6
    )
    assert seen == plan.times[:-1].tolist()
    again = with_transform((3, 4), label=LABEL, differentiable=True)
    torch.testing.assert_close(again, result, rtol=0, atol=1e-11)


def test_dynamic_threshold():
    data = torch.tensor([[0.1, -0.4, 0.2, 0.3], [4.0, -1.0, 0.5, 2.0]])
    out = fastgen.model.dynamic_threshold(percentile=1.0)(data, 0.5)
    torch.testing.assert_close(out, torch.stack([data[0], data[1] / 4]))
    out = fastgen.model.dynamic_threshold(percentile=2 / 3)(data, 0.5)
    torch.testing.assert_close(out[1], torch.tensor([1.0, -0.5, 0.25, 1.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guidance(2.0, rescale=1.5), "rescale="),
        (lambda: fastgen.model.dynamic_threshold(0.0), "percentile="),
        (lambda: fastgen.model.dynamic_threshold(least=0.0), "least="),
        (
            lambda: fastgen.Sampler(
                fastgen.Model(network, SCHEDULE, "noise"),
                fastgen.plan("ddim_cfgpp", SCHEDULE, 3),
                transform=lambda d, t: d,
            ),
            "unconditional output on its own",
        ),
        (lambda: Guidance(2.0, interval=(0.5, 0.2)), "interval="),
        (lambda: Guidance(torch.ones(2, 2)), "scale: expected"),
        (
            lambda: sampler(Guidance(torch.ones(2)))((3, 4), label=LABEL),
            "2 scales for a batch of shape",
        ),
    ],
)
def test_bad_guidance_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_guidance_that_guides_nothing_is_said():
    model = fastgen.Model(lambda x, t: 0.1 * x, schedules.LinearVP(), "noise")
    with pytest.warns(UserWarning, match="'unconditional' is the call itself"):
        fastgen.sample(model, (2, 3), "ddim", 2, guidance=Guidance(3.0))
