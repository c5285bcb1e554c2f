"""
One network, six parametrisations, one sample
=============================================

Noise, data, score, velocity, v and EDM's F are the same function written six ways: each is a
linear combination of the state and any other, with coefficients of the time. So a solver does not
care which of them a network predicts. Here one exact model is handed over in six forms. The
samples lie on top of each other, up to rounding.
"""

import matplotlib.pyplot as plt
import torch

import fastgen

# %%
# The model: an exact data prediction D for points spread along a spiral.
schedule = fastgen.schedules.CosineVP()
angle = torch.linspace(0.6, 3.0, 60).double() * torch.pi
spiral = torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / 4


def coefficients(t):
    """alpha, sigma and their derivatives, [B, 1] each."""
    of = schedule.alpha, schedule.sigma, schedule.d_alpha, schedule.d_sigma
    return [f(t)[:, None] for f in of]


def data(x, t):
    """D = E[x_0 | x_t = x] for points of width 0.05 along the spiral, [B, 2]."""
    alpha, sigma, _, _ = coefficients(t)
    variance = (0.05 * alpha) ** 2 + sigma**2
    offsets = x[:, None] - alpha[..., None] * spiral
    mean = (-(offsets**2).sum(-1) / (2 * variance)).softmax(1) @ spiral
    return mean + alpha * 0.05**2 / variance * (x - alpha * mean)


def noise(x, t):
    """(x - alpha D) / sigma."""
    alpha, sigma, _, _ = coefficients(t)
    return (x - alpha * data(x, t)) / sigma


def score(x, t):
    """-noise / sigma."""
    return -noise(x, t) / coefficients(t)[1]


def velocity(x, t):
    """dx/dt = alpha' D + sigma' noise."""
    _, _, d_alpha, d_sigma = coefficients(t)
    return d_alpha * data(x, t) + d_sigma * noise(x, t)


def v(x, t):
    """alpha noise - sigma D."""
    alpha, sigma, _, _ = coefficients(t)
    return alpha * noise(x, t) - sigma * data(x, t)


def edm(scaled, t):
    """The inner network of EDM's preconditioning, which is fed c_in x / alpha."""
    alpha, sigma, _, _ = coefficients(t)
    ratio = sigma / alpha
    total = ratio**2 + 0.5**2
    y = scaled * total.sqrt()
    return (data(y * alpha, t) - 0.5**2 / total * y) / (ratio * 0.5 / total.sqrt())


FORMS = {"data": data, "noise": noise, "score": score, "velocity": velocity, "v": v, "edm": edm}

# %%
# The same call for all of them.
found = {}
for predicts, net in FORMS.items():
    model = fastgen.Model(net, schedule, predicts, time_dtype=torch.float64)
    found[predicts] = fastgen.sample(
        model, (800, 2), "dpmpp_2m", 20, seed=0, start=0.99, end=0.001, dtype=torch.float64
    )

figure, axes = plt.subplots(1, 6, figsize=(11, 2.3), layout="constrained", sharex=True, sharey=True)
for axis, (predicts, x) in zip(axes, found.items(), strict=True):
    apart = float((x - found["data"]).abs().max())
    axis.scatter(*x.T, s=1.5, color="tab:blue", linewidths=0)
    axis.set(aspect="equal", xticks=[], yticks=[])
    axis.set_title(f'predicts="{predicts}"', fontsize=9)
    axis.set_xlabel("the first" if predicts == "data" else f"apart by {apart:.0e}", fontsize=9)
plt.show()
