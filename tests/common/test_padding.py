"""Samples of different lengths in one batch: padding takes no part in errors, nor in noise."""

import math

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


@pytest.mark.parametrize("gradient", ["through", "adjoint"])
@pytest.mark.parametrize("step", ["per_sample", "joint"])
def test_masks_of_the_tensors_of_a_state(step, gradient, backend):
    """A dict of a padded tensor, one without padding, and one of another length."""
    options = {"rtol": 1e-4, "atol": 1e-6, "step": step, "backend": backend, "gradient": gradient}

    def dynamics(t, y):
        x = field(t, y["x"])
        total = y["x"].sum(1, keepdim=True)  # of the live elements: padding is 0
        return {"x": x, "total": total, "z": -2 * y["z"] + 0 * total}

    found = []
    for pad in (0, 37):
        x, live = padded(pad, value=5.0)
        z = torch.full((3, 5 + pad), 3.0, dtype=torch.float64)
        z[:, 5:] = -7.0
        state = {"x": x.requires_grad_(), "total": torch.zeros(3, 1, dtype=torch.float64), "z": z}
        mask = {"x": live, "total": None, "z": torch.arange(5 + pad) < 5}
        solved = fastgen.odeint(
            dynamics, state, [0.0, 1.0], mask=mask, return_solution=True, **options
        )
        (slope,) = torch.autograd.grad(solved.ys["total"][-1].sum(), x)
        assert (slope[~live] == 0).all()
        assert (solved.ys["z"][-1][:, 5:] == 0).all()
        found.append((solved.stats.accepted, solved.ys["total"][-1].detach(), slope[:, :4]))
    for short, long in zip(*found, strict=True):
        torch.testing.assert_close(short, long, rtol=1e-9, atol=1e-12)


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


def gaussian(variance):
    """Of data N(0, variance) with elements that are alike, and what padding would be told."""
    schedule = schedules.LinearVP()

    def net(x, t):
        assert x.dtype == torch.float64
        marginal = schedule.alpha(t) ** 2 * variance + schedule.sigma(t) ** 2
        return schedule.sigma(t).reshape(-1, 1) * (x / marginal.reshape(-1, 1)) + mixed(x)

    def mixed(x):  # what is live depends on what is not, as in a network that has no mask
        return 0.0 if x.shape[1] == 4 else 0.2 * x[:, 4:].sum(1, keepdim=True)

    return fastgen.Model(net, schedule, "noise", time_dtype=torch.float64)


@pytest.mark.parametrize("kind", ["exact", "hutchinson", "hutch++", "own"])
def test_likelihoods_of_the_live_elements(kind):
    """The closed form, the steps and the probes' noise: none is changed by the padding."""
    variance = 0.3
    model = gaussian(variance)

    def own(x, t):
        alpha, sigma = model.schedule.alpha(t), model.schedule.sigma(t)
        return (x != 0).sum(1) * sigma / (alpha**2 * variance + sigma**2)

    options = {"divergence": own if kind == "own" else kind, "dtype": torch.float64}
    options |= {"rtol": 1e-7, "atol": 1e-8, "dequantise": 16, "return_solution": True}
    options |= {"probes": {"hutchinson": 2, "hutch++": 3}.get(kind)}
    x = 0.4 * torch.cos(torch.arange(12.0, dtype=torch.float64)).reshape(3, 4)
    found = []
    for pad in (0, 9):
        live = padded(pad)[1]
        wide = torch.cat([x, torch.full((3, pad), 7.0).double()], 1)
        found.append(fastgen.log_likelihood(model, wide, mask=live, **options))
    short, long = found
    assert torch.equal(short.solution.stats.accepted, long.solution.stats.accepted)
    torch.testing.assert_close(short.log_prob, long.log_prob, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        short.bits_per_dimension, long.bits_per_dimension, rtol=1e-6, atol=1e-6
    )
    assert (long.latent[~padded(9)[1]] == 0).all()
    if kind == "hutch++":  # an estimate, with an error of its own
        return
    lengths = torch.tensor(LENGTHS)
    log_prob = fastgen.log_likelihood(
        model, x, mask=padded(0)[1], **options | {"dequantise": None}
    ).log_prob
    inside = torch.where(padded(0)[1], x, 0.0).square().sum(1)
    expected = -0.5 * (inside / variance + lengths * math.log(2 * math.pi * variance))
    # The prior at t = 1 is N(0, sigma^2), without the last of the data.
    torch.testing.assert_close(log_prob, expected, rtol=1e-3, atol=1e-3)


def test_bounds_and_densities_of_the_live_elements():
    schedule = schedules.DiscreteVP(torch.linspace(0.05, 0.5, 5, dtype=torch.float64))

    def net(x, t):
        return 0.3 * x.tanh() + 0.1 * x[:, 4:].sum(1, keepdim=True)

    model = fastgen.Model(net, schedule, "noise")
    x = torch.sin(torch.arange(12.0, dtype=torch.float64)).reshape(3, 4)
    bounds, densities = [], []
    for pad in (0, 6):
        live = padded(pad)[1]
        wide = torch.cat([x, torch.full((3, pad), 0.5).double()], 1)
        bounds.append(fastgen.variational_bound(model, wide, levels=256, mask=live))
        plan = fastgen.plan("ddpm", schedule, 4)
        sampler = fastgen.Sampler(
            fastgen.Model(lambda x, t: 0.3 * x, schedule, "noise"), plan, dtype=torch.float64
        )
        _, states = sampler((3, 4 + pad), seed=5, trajectory=True)
        densities += [
            fastgen.trajectory_log_probability(sampler, states, mask=live).values,
            fastgen.sampled_log_probability(plan, (3, 4 + pad), seed=5, mask=live).values,
        ]
    for name in ("total", "bits_per_dimension"):
        torch.testing.assert_close(getattr(bounds[0], name), getattr(bounds[1], name))
    assert bounds[1].dimensions.tolist() == list(LENGTHS)
    for other in densities[1:]:
        torch.testing.assert_close(densities[0], other, rtol=1e-6, atol=1e-6)


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
    with pytest.raises(ValueError, match="mask: expected one for each tensor of the state"):
        fastgen.odeint(lambda t, y: y, (y0, y0), [0.0, 1.0], mask=live)
    with pytest.raises(ValueError, match="mask: expected a shape that broadcasts to the data's"):
        fastgen.log_likelihood(gaussian(0.3), y0, mask=live[:, :2])


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
