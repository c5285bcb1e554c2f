"""States whose channels lie last in memory: the same numbers, no copied output, one layout."""

import pytest
import torch
from torch import nn

import fastgen
from fastgen import schedules
from fastgen.common.layouts import gives_channels_last, in_channels_last
from fastgen.integrations.k_diffusion import sampling as k_diffusion
from fastgen.kernels import dispatch
from fastgen.model import Guidance

SCHEDULE = schedules.LinearVP()
SHAPE = (2, 3, 5, 6)


def network(x, t, cond=1.0):
    return 0.3 * cond * torch.tanh(x) + 0.1 * t.reshape(-1, *[1] * (x.ndim - 1))


def last(x):
    form = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=form)


def start(shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("shape", [SHAPE, (2, 3, 2, 3, 4)], ids=["images", "videos"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun", "unipc"])
def test_deterministic_runs_keep_the_layout(solver, shape, backend):
    """Also with outputs that lie otherwise, and with guidance."""
    for net, guidance in (
        (network, None),
        (lambda x, t, cond: network(x, t, cond).contiguous(), None),
        (network, Guidance(1.5, {"cond": 0.5}, batched=False)),
    ):
        model = fastgen.Model(net, SCHEDULE, "noise")
        plan = fastgen.plan(solver, SCHEDULE, 4, clip=(-1.0, 1.0) if guidance is None else None)
        sampler = fastgen.Sampler(model, plan, guidance=guidance, backend=backend)
        x = start(shape)
        wanted = sampler(x, cond=2.0)
        found, states = sampler(last(x), trajectory=True, cond=2.0)
        assert torch.equal(found, wanted)
        assert torch.equal(states[-1], wanted)
        assert in_channels_last(sampler(last(x), cond=2.0))
        assert wanted.is_contiguous()
        assert sampler(x, cond=2.0).is_contiguous()


def test_outputs_are_read_where_they_lie(monkeypatch):
    """The kernel is given the network's memory."""
    outputs, read = [], []

    def net(x, t):
        assert in_channels_last(x)
        outputs.append(last(network(x, t)))
        return outputs[-1]

    find = dispatch.find

    def noting(operation, device, backend=None):
        bind = find(operation, device, backend)
        if operation != "bind_combine":
            return bind

        def bound(*arguments):
            call = bind(*arguments)

            def noted(missing):
                read.extend((x.data_ptr(), x.is_contiguous()) for x in missing)
                call(missing)

            return noted

        return bound

    monkeypatch.setattr(dispatch, "find", noting)
    fastgen.Sampler(fastgen.Model(net, SCHEDULE, "noise"), fastgen.plan("ddim", SCHEDULE, 3))(
        last(start())
    )
    assert read == [(x.data_ptr(), True) for x in outputs]
    assert len(read) == 3


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m_sde"])
def test_noise_numbers_elements_as_they_lie(solver):
    """So a run with it is contiguous, and its numbers are the same."""
    sampler = fastgen.Sampler(
        fastgen.Model(network, SCHEDULE, "noise"), fastgen.plan(solver, SCHEDULE, 3)
    )
    found = sampler(last(start()), seed=3)
    assert torch.equal(found, sampler(start(), seed=3))
    assert found.is_contiguous()
    along = fastgen.Sampler(sampler.model, sampler.plan, noise="brownian")
    assert torch.equal(along(last(start()), seed=3), along(start(), seed=3))


def test_networks_in_channels_last():
    """Runs and recordings from a shape lie as their convolutions do; learned variances too."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self, channels=3):
            super().__init__()
            self.convolution = nn.Conv2d(3, channels, 3, padding=1)

        def forward(self, x, t):
            return self.convolution(x) * (1 + t.reshape(-1, 1, 1, 1))

    net = Net().double()
    assert not gives_channels_last(net)
    plan = fastgen.plan("dpmpp_2m", SCHEDULE, 4)
    options = {"dtype": torch.float64}
    model = fastgen.Model(net, SCHEDULE, "noise")
    wanted = fastgen.Sampler(model, plan, **options)(SHAPE, seed=1)
    net.to(memory_format=torch.channels_last)
    assert gives_channels_last(net)
    sampler = fastgen.Sampler(model, plan, **options)
    found = sampler(SHAPE, seed=1)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert in_channels_last(found)
    captured = sampler.capture(SHAPE)
    assert torch.equal(captured(seed=1), found)
    assert in_channels_last(captured(start().double()))
    learned = fastgen.Model(Net(6).double(), SCHEDULE, "noise", learned_variance="range")
    ddpm = fastgen.plan("ddpm", SCHEDULE, 3)
    before = fastgen.Sampler(learned, ddpm, **options)(SHAPE, seed=1)
    learned.net.to(memory_format=torch.channels_last)
    after = fastgen.Sampler(learned, ddpm, **options)(SHAPE, seed=1)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)


def test_drop_ins_keep_the_layout():
    sigmas = torch.tensor([3.0, 1.0, 0.3, 0.0])
    model = lambda x, sigma, **_: 0.5 * x  # noqa: E731
    wanted = k_diffusion.sample_dpmpp_2m(model, start(), sigmas, disable=True)
    found = k_diffusion.sample_dpmpp_2m(model, last(start()), sigmas, disable=True)
    assert torch.equal(found, wanted)
    assert in_channels_last(found)
