"""Samples of different lengths in one batch: padding takes no part in errors, nor in noise."""

import pytest
import torch

import fastgen
from fastgen import schedules
from fastgen.model import Permuted

RATES = torch.tensor([1.0, 7.0, 20.0, 40.0], dtype=torch.float64)
LENGTHS = (4, 2, 3)


def padded(pad, value=0.0):
    """Three samples of the lengths, and the mask."""
    live = torch.arange(4 + pad) < torch.tensor(LENGTHS)[:, None]
    return torch.where(live, 1.0, value).double(), live


def field(t, y):
    """y' = k (cos 3t - y) on live elements, and anything behind."""
    k = torch.cat([RATES, torch.full((y.shape[1] - 4,), 3.0, dtype=y.dtype)])
    return k * (torch.cos(3 * t).reshape(-1, 1) - y)


def alone(length, **options):
    def own(t, y):
        return RATES[:length] * (torch.cos(3 * t).reshape(-1, 1) - y)

    y0 = torch.ones(1, length, dtype=torch.float64)
    return fastgen.odeint(own, y0, [0.0, 1.0], return_solution=True, **options)


@pytest.mark.parametrize("pad", [0, 12, 509])
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3"])
def test_odeint_takes_the_steps_of_each_sample_alone(pad, method, backend):
    options = {"rtol": 1e-4, "atol": 1e-6, "method": method, "backend": backend}
    y0, live = padded(pad, value=5.0)
    before = y0.clone()
    found = fastgen.odeint(field, y0, [0.0, 1.0], mask=live, return_solution=True, **options)
    assert torch.equal(y0, before)
    assert (found.ys[-1][~live] == 0).all()
    for b, length in enumerate(LENGTHS):
        own = alone(length, **options)
        assert found.stats.accepted[b] == own.stats.accepted[0]
        assert found.stats.rejected[b] == own.stats.rejected[0]
        torch.testing.assert_close(found.ys[-1][b, :length], own.ys[-1][0], rtol=1e-9, atol=1e-12)


def test_what_a_function_returns_in_the_padding_is_not_read():
    y0, live = padded(3)

    def garbage(t, y, rows):
        return torch.where(live[rows], field(t, y), torch.nan)

    found = fastgen.odeint(garbage, y0, [0.0, 1.0], mask=live)
    expected = fastgen.odeint(lambda t, y: field(t, y), y0, [0.0, 1.0], mask=live)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_fixed_and_joint_steps_and_gradients():
    y0, live = padded(3)
    for options in ({"method": "rk4", "step_size": 0.02}, {"rtol": 1e-8, "atol": 1e-10}):
        found = fastgen.odeint(field, y0, [0.0, 1.0], mask=live, **options)[-1]
        for b, length in enumerate(LENGTHS):
            own = alone(length, **options).ys[-1][0]
            torch.testing.assert_close(found[b, :length], own, rtol=1e-9, atol=1e-12)
    counts = []
    for pad in (0, 40):
        y, own = padded(pad)
        options = {"step": "joint", "mask": own, "return_solution": True}
        counts.append(fastgen.odeint(field, y, [0.0, 1.0], **options).stats.accepted.tolist())
    assert counts[0] == counts[1]
    x = y0.clone().requires_grad_()
    fastgen.odeint(field, x, [0.0, 1.0], mask=live)[-1].sum().backward()
    assert (x.grad[~live] == 0).all()
    expected = torch.exp(-RATES)
    torch.testing.assert_close(x.grad[0, :4], expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("solver", ["dopri5", "dpm_adaptive"])
def test_sampling_by_error_control(solver):
    model = fastgen.Model(lambda x, t: 0.3 * x.tanh(), schedules.LinearVP(), "noise")
    live = torch.arange(50) < torch.tensor(LENGTHS)[:, None]
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options = {"rtol": 1e-4, "atol": 1e-5, "dtype": torch.float64}
    found = fastgen.sample(model, x, solver, mask=live, **options)
    for b, length in enumerate(LENGTHS):
        own = fastgen.sample(model, x[b : b + 1, :length], solver, **options)
        torch.testing.assert_close(found[b : b + 1, :length], own, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("step", ["per_sample", "joint"])
def test_sdeint(step):
    """The padding's length does not change the steps, nor what they lead to."""
    results = []
    for pad in (0, 60):
        y0, live = padded(pad)
        counted = []

        def drift(t, y, counted=counted):
            counted.append(1)
            return field(t, y)

        path = fastgen.BrownianPath((3, 4 + pad), seed=3, dtype=torch.float64)
        ys = fastgen.sdeint(
            drift,
            lambda t, y: 0.3 + 0.1 * y,
            y0,
            [0.0, 1.0],
            adaptive=fastgen.sde.Adaptive(rtol=1e-2, atol=1e-2, step=step),
            noise=path,
            mask=live,
        )
        assert (ys[-1][~live] == 0).all()
        results.append((len(counted), ys[-1][:, :4]))
    assert results[0][0] == results[1][0]
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-12)


def test_masks_that_do_not_fit():
    y0, live = padded(3)
    for mask in (live.double(), [True]):
        with pytest.raises(TypeError, match="mask: expected a tensor of booleans"):
            fastgen.odeint(field, y0, [0.0, 1.0], mask=mask)
    with pytest.raises(ValueError, match="mask: expected a shape that broadcasts"):
        fastgen.odeint(field, y0, [0.0, 1.0], mask=live[:, :2])
    with pytest.raises(ValueError, match="mask: it is for a state of one tensor"):
        fastgen.odeint(lambda t, y: y, (y0, y0), [0.0, 1.0], mask=live)


def test_a_sample_without_live_elements_stays():
    y0, live = padded(3)
    live[1] = False
    found = fastgen.odeint(field, y0, [0.0, 1.0], mask=live)[-1]
    assert (found[1] == 0).all()
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m", "euler_ancestral"])
def test_noise_of_channels_first_batches(solver):
    """With time as the state's first axis noise does not depend on the padded length."""

    def net(x, t):
        assert x.shape[1] == 8
        return 0.5 * x

    model = fastgen.Model(Permuted(net, (2, 1)), schedules.LinearVP(), "noise")
    short, long = (
        fastgen.sample(model, (2, length, 8), solver, 4, start=0.9, seed=1) for length in (7, 20)
    )
    assert torch.equal(short, long[:, :7])
    same = fastgen.Model(lambda x, t: 0.5 * x, schedules.LinearVP(), "noise")
    assert torch.equal(short, fastgen.sample(same, (2, 7, 8), solver, 4, start=0.9, seed=1))


def test_axes_of_a_permuted_network():
    x = torch.randn(2, 3, 4, 5)
    seen = []

    def net(x, t):
        seen.append(tuple(x.shape))
        return x

    assert torch.equal(Permuted(net, (3, 1, 2))(x, torch.ones(2)), x)
    assert seen == [(2, 5, 3, 4)]
    with pytest.raises(ValueError, match="axes="):
        Permuted(net, (0, 1))
