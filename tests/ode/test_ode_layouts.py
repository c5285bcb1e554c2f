"""Images whose channels lie last in memory: f is given them so, and they come back so."""

import pytest
import torch

import fastgen
from fastgen import ode, schedules
from fastgen.common.layouts import in_channels_last

TIMES = torch.tensor([0.0, 0.4, 1.0])


def last(x):
    form = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=form)


def start(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def close(a, b):
    """But for the order of sums over a sample, by which steps are judged."""
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def channels(t, y):
    """What takes channels for something else than pixels is seen."""
    scale = torch.arange(1.0, 1 + y.shape[1], dtype=y.dtype) / y.shape[1]
    return torch.tanh(y) * scale.reshape(-1, *[1] * (y.ndim - 2)) - 0.1 * y


class Images(torch.nn.Module):
    def __init__(self, convolution):
        super().__init__()
        self.convolution = convolution

    def forward(self, x, t):
        return self.convolution(x) - t.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 3, 2, 3, 4)], ids=["images", "videos"])
@pytest.mark.parametrize("step", ["per_sample", "joint"])
@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("contiguous", [False, True], ids=["lying", "contiguous"])
def test_solves_keep_the_layout(shape, step, backend, contiguous):
    """Also where f returns contiguous values."""
    seen = []

    def f(t, y):
        seen.append(in_channels_last(y))
        return channels(t, y).contiguous() if contiguous else channels(t, y)

    options = {"step": step, "backend": backend, "rtol": 1e-8, "atol": 1e-10}
    y0 = start(*shape)
    wanted = fastgen.odeint(f, y0, TIMES, **options)
    assert not any(seen)
    seen.clear()
    found = fastgen.odeint(f, last(y0), TIMES, **options)
    assert all(seen)
    close(found, wanted)
    assert all(in_channels_last(y) for y in found)
    assert all(y.is_contiguous() for y in wanted)


@pytest.mark.parametrize("adjoint", [False, True])
def test_gradients(adjoint):
    def gradient(y0):
        y0 = y0.clone(memory_format=torch.preserve_format).requires_grad_()
        weight = torch.ones(4, dtype=torch.float64, requires_grad=True)

        def f(t, y):
            return channels(t, y) * weight.reshape(-1, 1, 1)

        options = {"rtol": 1e-9, "atol": 1e-11}
        if adjoint:
            options["gradient"] = ode.Adjoint(parameters=(weight,))
        found = fastgen.odeint(f, y0, TIMES, **options)
        (found * torch.arange(found.numel()).reshape(found.shape)).sum().backward()
        return y0.grad, weight.grad

    for a, b in zip(gradient(start(2, 4, 3, 5)), gradient(last(start(2, 4, 3, 5))), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6 if adjoint else 1e-9, atol=0)


def test_states_of_several_tensors():
    """Each lies as it was given; events see what f sees."""
    y0 = start(2, 3, 4, 5), start(2, 7)

    def f(t, y):
        return channels(t, y[0]), y[1] * 0.1 + y[0].mean((1, 2, 3))[:, None]

    event = fastgen.ode.Event(lambda t, y: y[0][:, 0].mean((1, 2)) - y[1].mean(1) - 0.1 + t)
    wanted = fastgen.odeint(f, y0, TIMES, event=event, return_solution=True)
    turned = last(y0[0]), y0[1]
    found = fastgen.odeint(f, turned, TIMES, event=event, return_solution=True)
    for a, b in zip(found.ys, wanted.ys, strict=True):
        close(a, b)
    assert found.ys[0][1].stride(1) == 1


def test_values_of_another_shape_are_refused():
    y0 = last(start(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"f: expected a real tensor of shape \(2, 3, 4, 5\)"):
        fastgen.odeint(lambda t, y: y.movedim(1, -1), y0, TIMES)


def test_samples_of_error_controlled_solvers():
    model = fastgen.Model(lambda x, t: channels(t, x), schedules.Rectified(), "velocity")
    x = start(2, 3, 4, 5)
    wanted = fastgen.sample(model, x, solver="dopri5", rtol=1e-8, atol=1e-10)
    found = fastgen.sample(model, last(x), solver="dopri5", rtol=1e-8, atol=1e-10)
    close(found, wanted)
    assert in_channels_last(found)


def test_samples_lie_as_the_networks_convolutions_leave_them():
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 3, 3, padding=1).double()
    model = fastgen.Model(Images(net), schedules.Rectified(), "velocity")
    options = {"solver": "bosh3", "seed": 1, "dtype": torch.float64}
    wanted = fastgen.sample(model, (2, 3, 4, 5), **options)
    net.to(memory_format=torch.channels_last)
    found = fastgen.sample(model, (2, 3, 4, 5), **options)
    close(found, wanted)
    assert in_channels_last(found)
