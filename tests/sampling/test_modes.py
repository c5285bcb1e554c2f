"""In which modes of torch networks are called, and what that leaves in them."""

import pytest
import torch
from torch import nn

import fastgen
from fastgen import schedules

SCHEDULE = schedules.Rectified()
SHAPE = (4, 6)


class Rotary(nn.Module):
    """Fills a table when it is first called, as rotary embeddings do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.table = None
        self.modes = []

    def forward(self, x, t):
        if self.table is None:
            self.table = torch.cos(torch.arange(6.0))
        self.modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        return self.linear(x * self.table)


def sampler(model, solver="euler"):
    return fastgen.Sampler(model, fastgen.plan(solver, SCHEDULE, 3, end=0.1))


def serve(model):
    batch = sampler(model).serve(SHAPE)
    batch.admit(seed=1)
    while batch.active:
        batch.step()


USES = {
    "sample": lambda m: fastgen.sample(m, SHAPE, "euler", 3),
    "multistep": lambda m: fastgen.sample(m, SHAPE, "dpmpp_2m", 3),
    "trajectory": lambda m: sampler(m)(SHAPE, trajectory=True),
    "guided": lambda m: fastgen.sample(m, SHAPE, "euler", 3, guidance=fastgen.Guidance(2.0)),
    "serve": serve,
    "capture": lambda m: sampler(m).capture(SHAPE)(seed=1),
    "invert": lambda m: fastgen.invert(m, torch.ones(SHAPE), steps=3),
    "dopri5": lambda m: fastgen.sample(m, SHAPE, "dopri5"),
}
use_of = pytest.mark.parametrize("use", USES.values(), ids=USES)


@use_of
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "in inference mode"])
def test_a_network_can_be_trained_afterwards(use, inside):
    net = Rotary()
    with torch.inference_mode(inside):
        use(fastgen.Model(net, SCHEDULE, "velocity"))
    assert set(net.modes) == {(False, False)}
    net(torch.ones(SHAPE), torch.ones(4)).sum().backward()
    assert net.linear.weight.grad is not None


def test_likelihoods_leave_nothing_behind():
    net = Rotary()
    model = fastgen.Model(net, SCHEDULE, "velocity")
    fastgen.log_likelihood(model, torch.ones(SHAPE), divergence="hutchinson")
    assert not any(inference for inference, _ in net.modes)
    net(torch.ones(SHAPE), torch.ones(4)).sum().backward()


@use_of
def test_networks_that_were_made_in_inference_mode(use):
    """They may write to tensors of theirs, which only works there."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x, t):
            self.calls += 1
            return 0.5 * x

    with torch.inference_mode():
        net = Counting()
        use(fastgen.Model(net, SCHEDULE, "velocity"))
        assert net.calls > 0


RUNS = {
    "plain": {},
    "brownian": {"noise": "brownian"},
    "guided": {"guidance": fastgen.Guidance(torch.tensor([1.0, 2.0, 3.0, 4.0]))},
    "rescaled": {"guidance": fastgen.Guidance(torch.tensor([1.0, 2.0, 3.0, 4.0]), rescale=0.5)},
    "float64": {"dtype": torch.float64},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("schedule", [schedules.CosineVP(), schedules.DiscreteVP.linear(10)])
def test_buffers_serve_in_whatever_mode(options, schedule):
    """First used in inference mode, a sampler works outside of it, also for gradients."""

    def net(x, t):
        return 0.5 * x

    def make():
        model = fastgen.Model(net, schedule, "v")
        return fastgen.Sampler(model, fastgen.plan("ddpm", schedule, 4), **options)

    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    expected, used = make()(x, seed=1), make()
    with torch.inference_mode():
        used(x, seed=1)
    assert torch.equal(used(x, seed=1), expected)
    with torch.no_grad():
        assert torch.equal(used(x, seed=1), expected)
    assert torch.equal(used(x, seed=1, trajectory=True)[0], expected)
    y = x.clone().requires_grad_()
    used(y, seed=1, differentiable=True).sum().backward()
    assert torch.isfinite(y.grad).all()
    with torch.inference_mode():
        captured, batch = used.capture(SHAPE), None
        if options.keys() <= {"dtype"}:
            batch = used.serve(SHAPE)
            batch.admit(x[0].to(used.dtype), seed=1)
            batch.step()
    assert torch.equal(captured(x, seed=1), expected)
    while batch is not None and batch.active:
        for found in batch.step().values():
            assert torch.equal(found, make()(x[:1], seed=1)[0])
