"""
ODE against SDE: few steps, and a wrong start
=============================================

The same model can be sampled by an ODE, which draws noise once, or by an SDE, which draws it in
every step. The ODE's paths are smooth, so that few steps follow them: it is ahead where
evaluations are few. The SDE keeps mixing, and so forgets where it came from: errors made early,
here a start in the wrong place, are gone at the end, while the ODE carries them along to the data.
"""

import matplotlib.pyplot as plt
import torch

import fastgen

# %%
# The model is exact: eight Gaussians on a circle, whose data prediction is known in closed form.
# All that one sees is due to the solvers.
schedule = fastgen.schedules.LinearVP()
angle = torch.arange(8) * torch.pi / 4
centres = 1.5 * torch.stack([angle.cos(), angle.sin()], 1)
WIDTH = 0.12


def data_prediction(x, t):
    """E[x_0 | x_t = x]: what each Gaussian predicts, weighted by how likely it made x."""
    alpha, sigma = schedule.alpha(t[0].item()), schedule.sigma(t[0].item())
    variance = (alpha * WIDTH) ** 2 + sigma**2
    mean = (-(torch.cdist(x, alpha * centres) ** 2) / (2 * variance)).softmax(1) @ centres
    return mean + alpha * WIDTH**2 / variance * (x - alpha * mean)


model = fastgen.Model(data_prediction, schedule, predicts="data")
SOLVERS = {"ODE": ("dpmpp_2m", "tab:blue"), "SDE": ("euler_maruyama", "tab:orange")}

# %%
# Paths of both from the same initial noise.
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for axis, (name, (solver, colour)) in zip(axes, SOLVERS.items(), strict=True):
    count = 24 if name == "ODE" else 2
    x, states = fastgen.sample(model, (1000, 2), solver, 200, seed=1, trajectory=True)
    axis.scatter(*x.T, s=2, color="0.8", linewidths=0)
    axis.plot(*states[:, :count].permute(2, 0, 1), color=colour, linewidth=0.8)
    axis.scatter(*states[0, :count].T, s=20, color="black", zorder=3, label="noise")
    axis.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal", xticks=[], yticks=[])
    axis.set_title(f"{name}: {count} paths")
axes[0].legend(frameon=False, loc="upper left")

# %%
# The distance of samples to fresh data, W2, against the budget; then the same with all noise
# moved to one side by 1.5, as where a
# schedule ends before all signal is gone.
generator = torch.Generator().manual_seed(0)
component = torch.randint(8, (1000,), generator=generator)
fresh = centres[component] + WIDTH * torch.randn((1000, 2), generator=generator)
noise = fastgen.randn((1000, 2), seed=2)
budgets = (4, 6, 10, 16, 32, 64, 128, 256)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained", sharey=True)
for axis, shift in zip(axes, (0.0, 1.5), strict=True):
    for name, (solver, colour) in SOLVERS.items():
        ends = [fastgen.sample(model, noise + shift, solver, n, seed=3) for n in budgets]
        apart = [fastgen.wasserstein(x, fresh) for x in ends]
        axis.plot(budgets, apart, "o-", color=colour, label=f"{name} ({solver})")
    axis.set(xlabel="evaluations", title=f"noise moved by {shift:g}", ylim=(0, 2))
    axis.set_xscale("log", base=2)
    axis.grid(color="0.92")
axes[0].set_ylabel("W2 to fresh data")
axes[0].legend(frameon=False)
plt.show()
