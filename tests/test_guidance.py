"""Guidance inside the fused stage equals guidance around the network."""

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


@pytest.mark.parametrize("solver", fastgen.solvers.names())
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
        stages = sampler(guidance)._program(False, False).stages
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guidance(2.0, interval=(0.5, 0.2)), "interval="),
        (lambda: Guidance(torch.ones(2, 2)), "scale: expected"),
        (
            lambda: sampler(Guidance(torch.ones(2)))((3, 4), label=LABEL),
            "2 scales for a batch of shape",
        ),
        (
            lambda: sampler(Guidance(2.0, {"label": None}))((3, 4), label=LABEL),
            "label=.*cannot be joined",
        ),
    ],
)
def test_bad_guidance_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
